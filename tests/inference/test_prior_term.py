import pytest
import torch
from inference_linear import NUM_DATA, Problem, half_square

from bayesprior.errors import ConfigError, LayoutMismatchError
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.prior_term import PriorTerm, _stability_limit, attach_prior
from bayesprior.inference.schedules import constant
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def plain_loop(problem, optimizer, num_steps):
    for _ in range(num_steps):
        for batch in problem.loader():
            optimizer.zero_grad()
            half_square(problem.module, batch)[0].backward()
            optimizer.step()


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0),
    "implicit": lambda params: ImplicitPriorSGD(params, lr=1e-1),
    "sgld": lambda params: SGLD(params, lr=1e-2, num_data=NUM_DATA, seed=3),
}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_plain_loop_with_attached_prior_equals_the_engine(name):
    ours, theirs = Problem(), Problem()
    optimizer = OPTIMIZERS[name](ours.module.parameters())
    train(
        ours.module,
        half_square,
        ours.loader(),
        optimizer,
        constant(),
        25,
        prior=ours.prior,
        num_data=NUM_DATA,
        progress=False,
    )
    optimizer = OPTIMIZERS[name](theirs.module.parameters())
    attach_prior(optimizer, theirs.module, theirs.prior, num_data=NUM_DATA)
    plain_loop(theirs, optimizer, 25)
    assert torch.equal(ours.weights(), theirs.weights())


def test_lbfgs_with_a_closure_reaches_the_closed_form_map():
    problem = Problem(rms_std=0.05)
    optimizer = torch.optim.LBFGS(
        problem.module.parameters(), max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14
    )
    attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    batch = next(iter(problem.loader()))

    def closure():
        optimizer.zero_grad()
        loss = half_square(problem.module, batch)[0]
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    torch.testing.assert_close(problem.weights(), problem.posterior_mean, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # Lightning's own about loggers, workers and devices
def test_lightning_trainer_with_attached_prior_equals_a_plain_loop(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self, problem):
            super().__init__()
            self.problem = problem
            self.net = problem.module

        def training_step(self, batch, index):
            return half_square(self.net, batch)[0]

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-2, momentum=0.9)
            attach_prior(optimizer, self.net, self.problem.prior, num_data=NUM_DATA)
            return optimizer

    theirs, ours = Problem(), Problem()
    trainer = lightning.Trainer(
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Task(theirs), theirs.loader())
    optimizer = torch.optim.SGD(ours.module.parameters(), lr=1e-2, momentum=0.9)
    attach_prior(optimizer, ours.module, ours.prior, num_data=NUM_DATA)
    plain_loop(ours, optimizer, 20)
    torch.testing.assert_close(theirs.weights(), ours.weights(), rtol=1e-12, atol=1e-12)


def test_removed_hook_leaves_plain_training():
    attached, plain = Problem(), Problem()
    optimizer = torch.optim.SGD(attached.module.parameters(), lr=1e-2)
    attach_prior(optimizer, attached.module, attached.prior, num_data=NUM_DATA).remove()
    plain_loop(attached, optimizer, 5)
    plain_loop(plain, torch.optim.SGD(plain.module.parameters(), lr=1e-2), 5)
    assert torch.equal(attached.weights(), plain.weights())


def test_diagnosis_is_log_prior_and_configurational_temperature():
    problem = Problem()
    term = PriorTerm(problem.module, problem.prior, NUM_DATA)
    half_square(problem.module, next(iter(problem.loader())))[0].backward()
    weights = problem.weights()
    stats = term.add_to_grad(diagnose=True)
    assert stats["log_prior"] == pytest.approx(problem.prior.log_prob(weights).item(), rel=1e-12)
    total = problem.posterior_precision @ (weights - problem.posterior_mean)
    gradient = torch.cat([p.grad.reshape(-1) for p in problem.module.parameters()])
    torch.testing.assert_close(gradient * NUM_DATA, total, rtol=1e-9, atol=1e-9)
    expected = ((weights - problem.prior.loc) @ total / len(weights)).item()
    assert stats["configurational_temperature"] == pytest.approx(expected, rel=1e-9)


def test_parameters_without_a_data_gradient_still_feel_the_prior():
    problem = Problem()
    term = PriorTerm(problem.module, problem.prior, NUM_DATA)
    term.add_to_grad()
    gradient = torch.cat([p.grad.reshape(-1) for p in problem.module.parameters()])
    expected = -problem.prior.score(problem.weights()) / NUM_DATA
    torch.testing.assert_close(gradient, expected)


def test_a_parameter_without_elements_is_no_matter():
    net = torch.nn.Linear(2, 1)
    net.nothing = torch.nn.Parameter(torch.zeros(0, 3))
    layout = ParameterLayout.from_module(net)
    law = GaussianWeights.point(layout, layout.flatten(net), 1.0)
    optimizers = (SGLD(net.parameters(), lr=0.1, num_data=5), torch.optim.SGD([net.nothing], 0.1))
    for optimizer in optimizers:
        PriorTerm(net, law, 5).prepare(optimizer)


def test_an_optimizer_is_given_the_root_of_the_covariance():
    """Deviations, without the mean: R R^T = Sigma."""
    problem = Problem()
    term = PriorTerm(problem.module, problem.prior, NUM_DATA)
    dim = problem.prior.dim

    def columns(method):
        found = []
        for unit in torch.eye(dim, dtype=torch.float64):
            views = problem.prior.layout.unflatten(unit).values()
            given = dict(zip(term.parameters, views, strict=True))
            found.append(torch.cat([method(given)[p].reshape(-1) for p in term.parameters]))
        return torch.stack(found, 1)

    root = columns(term.color)
    torch.testing.assert_close(root @ root.T, problem.prior.covariance_matrix)
    torch.testing.assert_close(columns(term.gradient_in_z), root.T)


def test_bad_input_is_one_clear_error():
    problem = Problem()
    module = torch.nn.Sequential(problem.module, torch.nn.Linear(1, 1, dtype=torch.float64))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    partial = problem.prior.rename(lambda n: f"0.{n}")
    with pytest.raises(LayoutMismatchError, match="nothing of the trainable parameter '1.weight'"):
        attach_prior(optimizer, module, partial, num_data=NUM_DATA)
    with pytest.raises(ConfigError, match="num_data must be"):
        attach_prior(optimizer, module, partial, num_data=-1)
    sgd = torch.optim.SGD(problem.module.parameters(), lr=1e-2)
    narrow = problem.prior.rescale(rms_std=1e-4)
    with pytest.raises(ConfigError, match="unstable under this prior"):
        attach_prior(sgd, problem.module, narrow, num_data=NUM_DATA)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_largest_stable_rate_of_momentum_sgd_is_that_of_its_recurrence(nesterov):
    """Just below the limit a quadratic's error dies out, just above it grows."""
    momentum, curvature = 0.8, 2.5
    for share, dies in ((0.98, True), (1.02, False)):
        weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, nesterov=nesterov)
        group = optimizer.param_groups[0]
        group["lr"] = share * _stability_limit(optimizer, group, curvature)
        for _ in range(2000):
            weight.grad = curvature * weight.detach()
            optimizer.step()
        assert (abs(weight.item()) < 1) == dies


def test_priors_of_two_modules_under_one_optimizer_both_stay():
    problems = Problem(), Problem()
    params = [p for problem in problems for p in problem.module.parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1)
    for problem in (*problems, *problems):  # attached twice, each counts once
        attach_prior(optimizer, problem.module, problem.prior, num_data=NUM_DATA)
    assert len(optimizer._optimizer_step_pre_hooks) == 2
