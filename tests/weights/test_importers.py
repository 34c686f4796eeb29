"""Foreign formats, written here as their authors' code writes them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bayesprior.errors import ConfigError, PriorFileError
from bayesprior.weights.importers import (
    from_checkpoints,
    from_four_files,
    from_state_dict,
    from_swa_gaussian,
)
from bayesprior.weights.layout import ParameterLayout


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Identity()


@pytest.fixture
def backbone():
    return Backbone()


@pytest.fixture
def trajectory(backbone):
    """Seven state dicts of a network that moves, statistics included."""
    states = []
    for _ in range(7):
        with torch.no_grad():
            for tensor in (*backbone.parameters(), backbone.norm.running_mean):
                tensor.add_(0.1 * torch.randn_like(tensor))
        states.append({n: t.clone() for n, t in backbone.state_dict().items()})
    return states


def vectors(states, module):
    names = [name for name, _ in module.named_parameters()]
    return torch.stack([torch.cat([s[n].reshape(-1) for n in names]) for s in states])


@pytest.fixture
def prefix(tmp_path, trajectory, backbone):
    """The published layout of files: (D,), (D,), (K, D) and the backbone's state dict."""
    snapshots = vectors(trajectory, backbone)
    prefix = tmp_path / "resnet50_ssl_prior"
    torch.save(snapshots.mean(0), f"{prefix}_mean.pt")
    torch.save(snapshots.var(0, correction=0).clamp_min(1e-6), f"{prefix}_variance.pt")
    torch.save(snapshots[-5:] - snapshots.mean(0), f"{prefix}_covmat.pt")
    torch.save(trajectory[-1], f"{prefix}_model.pt")
    return prefix


def published(prefix):
    parts = (torch.load(f"{prefix}_{p}.pt").double() for p in ("mean", "variance", "covmat"))
    return tuple(parts)


@pytest.mark.parametrize(("divided", "divisor"), [(False, 4.0), (True, 1.0)])
@pytest.mark.parametrize("convention", ["proper", "official"])
def test_four_files(prefix, backbone, divided, divisor, convention):
    mean, variance, rows = published(prefix)
    law = from_four_files(
        prefix, backbone, factor_divided=divided, convention=convention, cov_scale=3.0, eps=0.1
    )
    torch.testing.assert_close(law.mean.double(), mean)
    if convention == "proper":
        expected = 1.5 * (torch.diag(variance) + rows.T @ rows / divisor)
        expected += 0.1 * torch.eye(len(mean)).double()
    else:
        expected = torch.diag(3 * variance + 0.1) + 9 * rows.T @ rows / divisor
    torch.testing.assert_close(law.covariance_matrix, expected.float())
    assert law.rank == 5
    assert law.layout == ParameterLayout.from_module(backbone)
    assert torch.equal(law.buffers["norm.running_mean"], backbone.norm.running_mean)
    record = law.provenance["imported"]
    assert (record["factor_divided"], record["convention"]) == (divided, convention)
    assert (record["cov_scale"], record["eps"]) == (3.0, 0.1)


def test_default_is_swag_s_own_covariance(prefix, backbone):
    law = from_four_files(prefix, backbone, factor_divided=False)
    _, variance, rows = published(prefix)
    expected = 0.5 * torch.diag(variance) + 0.5 * rows.T @ rows / 4
    torch.testing.assert_close(law.covariance_matrix, expected.float())
    assert torch.equal(law.rescale(cov_scale=2.0).mean, law.mean)


def test_four_files_without_the_model(prefix, backbone, tmp_path):
    (tmp_path / f"{prefix.name}_model.pt").unlink()
    assert from_four_files(prefix, backbone, factor_divided=True).buffers == {}


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("mean", torch.ones(9), r"_mean\.pt must have shape \(D,\).*D = 14 trainable.*got \(9,\)"),
        ("variance", torch.ones(2, 14), r"_variance\.pt must have shape \(D,\).*got \(2, 14\)"),
        ("covmat", torch.ones(14, 5), r"_covmat\.pt must have shape \(K, D\).*got \(14, 5\)"),
        ("covmat", {"a": torch.ones(3)}, r"_covmat\.pt must have .*got dict"),
        ("model", {"a": torch.ones(3)}, r"_model\.pt does not fit.*only here: conv\.weight"),
        ("model", [1, 2], r"_model\.pt holds no dictionary of tensors"),
    ],
)
def test_files_that_do_not_fit(prefix, backbone, part, content, message):
    torch.save(content, f"{prefix}_{part}.pt")
    with pytest.raises(PriorFileError, match=message) as caught:
        from_four_files(prefix, backbone, factor_divided=True)
    assert "\n" not in str(caught.value)


def test_another_order_of_parameters_is_noticed(prefix, backbone, trajectory):
    state = trajectory[-1]
    torch.save(dict(reversed(state.items())), f"{prefix}_model.pt")
    with pytest.raises(PriorFileError, match="orders the parameters otherwise"):
        from_four_files(prefix, backbone, factor_divided=True)


def test_missing_and_foreign_files(prefix, backbone, tmp_path):
    with pytest.raises(PriorFileError, match=r"no such file: .*absent_mean\.pt"):
        from_four_files(tmp_path / "absent", backbone, factor_divided=True)
    path = tmp_path / f"{prefix.name}_mean.pt"
    for content in (b"", b"no tensor at all", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(PriorFileError, match="is no readable file of tensors"):
            from_four_files(prefix, backbone, factor_divided=True)


class Unwelcome:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_no_code_in_a_file_is_run(prefix, backbone, capsys):
    torch.save(Unwelcome(), f"{prefix}_mean.pt")
    with pytest.raises(PriorFileError, match="is no readable file of tensors"):
        from_four_files(prefix, backbone, factor_divided=True)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "offical"}, "convention must be 'proper' or 'official'"),
        ({"cov_scale": 0.0}, "cov_scale must be a positive number"),
        ({"eps": -1.0}, "eps must be 0 or more"),
    ],
)
def test_options_that_cannot_be(prefix, backbone, options, message):
    with pytest.raises(ConfigError, match=message):
        from_four_files(prefix, backbone, factor_divided=True, **options)


def swa_gaussian_state(states, module, max_num_models):
    """Running averages and deviations in the order of operations of that library."""
    state = {}
    for name, _ in module.named_parameters():
        mean = sq_mean = torch.zeros(())
        deviations = []
        for count, snapshot in enumerate(states):
            weights = snapshot[name]
            mean = mean * count / (count + 1.0) + weights / (count + 1.0)
            sq_mean = sq_mean * count / (count + 1.0) + weights**2 / (count + 1.0)
            deviations = [*deviations, (weights - mean).reshape(1, -1)]
            if count + 1 > max_num_models:
                deviations = deviations[1:]
        state[f"base.{name}_mean"], state[f"base.{name}_sq_mean"] = mean, sq_mean
        if max_num_models:
            state[f"base.{name}_cov_mat_sqrt"] = torch.cat(deviations)
    buffers = {n for n, _ in module.named_buffers()}
    state |= {f"base.{n}": t for n, t in states[-1].items() if n in buffers}
    return state | {"n_models": torch.tensor([len(states)])}


@pytest.mark.parametrize("rank", [4, 7])
def test_swa_gaussian(backbone, trajectory, tmp_path, rank):
    state = swa_gaussian_state(trajectory, backbone, rank)
    torch.save({"state_dict": state}, tmp_path / "swag.pt")
    law = from_swa_gaussian(tmp_path / "swag.pt", backbone)
    snapshots = vectors(trajectory, backbone).double().numpy()
    running = np.cumsum(snapshots, 0) / np.arange(1, 8)[:, None]
    deviations = (snapshots - running)[-rank:]
    expected = np.diag(snapshots.var(0)) / 2 + deviations.T @ deviations / (rank - 1) / 2
    torch.testing.assert_close(
        law.covariance_matrix, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-6
    )
    torch.testing.assert_close(law.mean, torch.from_numpy(snapshots.mean(0)).float())
    assert law.rank == min(rank, 6)  # the first deviation is zero
    assert law.provenance["imported"]["divisor"] == rank - 1
    assert torch.equal(law.buffers["norm.running_mean"], backbone.norm.running_mean)


def test_swa_gaussian_without_deviations(backbone, trajectory):
    law = from_swa_gaussian(swa_gaussian_state(trajectory, backbone, 0), backbone)
    variance = vectors(trajectory, backbone).var(0, correction=0)
    assert law.rank == 0
    torch.testing.assert_close(law.cov_diag, variance, rtol=1e-3, atol=0.0)


def test_swa_gaussian_bounds_variances_that_rounding_made_negative(backbone, trajectory):
    state = swa_gaussian_state(trajectory, backbone, 4)
    state["base.conv.bias_sq_mean"] = state["base.conv.bias_mean"] ** 2 - 1e-3
    law = from_swa_gaussian(state, backbone, var_floor=1e-2)
    record = law.provenance["imported"]
    assert record["floored_share"] == pytest.approx(2 / 14)
    torch.testing.assert_close(
        law.marginal(["conv.bias"]).cov_diag, torch.full((2,), record["var_floor"] / 2)
    )


def test_swa_gaussian_that_lacks_moments(backbone, trajectory):
    state = swa_gaussian_state(trajectory, backbone, 4)
    del state["base.conv.bias_sq_mean"]
    with pytest.raises(PriorFileError, match=r"\(\*_sq_mean\) does not fit.*conv\.bias"):
        from_swa_gaussian(state, backbone)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_state_dict(backbone, trajectory, tmp_path, suffix):
    state, path = trajectory[0], tmp_path / f"checkpoint{suffix}"
    state["head.weight"] = torch.ones(3)
    if suffix == ".pt":
        torch.save({"model": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, path)
    else:
        save_file(state, path)
    law = from_state_dict(path, backbone, std=0.2)
    assert torch.equal(law.mean, vectors([state], backbone)[0])
    torch.testing.assert_close(law.variance, torch.full((14,), 0.04))
    assert torch.equal(law.buffers["norm.running_mean"], state["norm.running_mean"])
    assert law.provenance["imported"]["source"] == str(path)


def test_state_dict_of_another_network(backbone, trajectory):
    state = {f"{name}.other": tensor for name, tensor in trajectory[0].items()}
    with pytest.raises(PriorFileError, match=r"0 of 4 .*did you mean 'conv\.weight\.other'"):
        from_state_dict(state, backbone, std=1.0)


def test_checkpoints(backbone, trajectory, tmp_path):
    paths = [tmp_path / f"epoch-{i}.pt" for i in range(7)]
    for path, state in zip(paths, trajectory, strict=True):
        torch.save(state, path)
    law = from_checkpoints([*paths[:6], trajectory[6]], backbone, rank=7)
    snapshots = vectors(trajectory, backbone).double()
    expected = snapshots.T.cov() / 2 + torch.diag(snapshots.var(0)) / 2
    torch.testing.assert_close(law.covariance_matrix, expected.float())
    assert law.provenance["swag"]["num_snapshots"] == 7
    assert law.provenance["imported"]["source"] == [*map(str, paths[:6]), "the state dict"]
    assert torch.equal(law.buffers["norm.running_mean"], backbone.norm.running_mean)
    with pytest.raises(ConfigError, match="rank = 20 is larger than the 3 snapshots"):
        from_checkpoints(paths[:3], backbone)


def test_imported_laws_are_saved_like_any_other(prefix, backbone, tmp_path):
    law = from_four_files(prefix, backbone, factor_divided=False)
    law.save(tmp_path / "prior.safetensors")
    again = type(law).load(tmp_path / "prior.safetensors")
    assert again.provenance == law.provenance
    assert torch.equal(again.cov_factor, law.cov_factor)


def test_checkpoints_of_different_layers_are_no_trajectory(backbone):
    whole = backbone.state_dict()
    without = {n: t for n, t in whole.items() if not n.startswith("norm.")}
    with (
        pytest.warns(UserWarning, match="not in the file: norm"),
        pytest.raises(PriorFileError, match="other layers than the files before it"),
    ):
        from_checkpoints([whole, without], backbone, rank=1)
