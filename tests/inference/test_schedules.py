import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesprior.errors import ConfigError
from bayesprior.inference.schedules import chain, constant, cosine, cyclical, scaled

STEPS = st.integers(0, 500)
FACTORS = st.floats(0, 1)


@given(st.integers(0, 50), st.integers(1, 20), STEPS)
def test_constant_collects_every_thin_th_step_after_burn_in(burn_in, thin, num_steps):
    schedule = constant(burn_in=burn_in, thin=thin)
    phases = [schedule(step) for step in range(num_steps)]
    assert all(phase[:2] == (1.0, 1.0) for phase in phases)
    collected = [step for step, phase in enumerate(phases) if phase.collect]
    assert len(collected) == max(num_steps - burn_in, 0) // thin
    assert all(step >= burn_in for step in collected)
    assert all(b - a == thin for a, b in itertools.pairwise(collected))


@given(st.integers(1, 300), st.data(), FACTORS)
def test_cosine_rises_then_falls_within_its_bounds(num_steps, data, final_factor):
    warm_up = data.draw(st.integers(0, num_steps - 1))
    schedule = cosine(num_steps=num_steps, warm_up=warm_up, final_factor=final_factor)
    factors = [schedule(step).lr_factor for step in range(num_steps + 3)]
    assert all(a < b for a, b in itertools.pairwise(factors[:warm_up]))
    assert all(a >= b for a, b in itertools.pairwise(factors[warm_up:]))
    assert factors[warm_up] == 1
    assert min(factors[warm_up:]) >= final_factor
    assert factors[num_steps:] == pytest.approx([final_factor] * 3)
    collected = [step for step in range(num_steps + 3) if schedule(step).collect]
    assert collected == [num_steps - 1]


def test_cosine_is_its_formula():
    schedule = cosine(num_steps=10, warm_up=2, final_factor=0.1)
    expected = [0.5, 1.0] + [0.1 + 0.9 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    assert [schedule(t).lr_factor for t in range(10)] == pytest.approx(expected)


@st.composite
def cycles(draw):
    num_cycles = draw(st.integers(1, 6))
    length = draw(st.integers(1, 40))
    exploration = draw(st.floats(0, 1, exclude_max=True))
    sampling = length - math.floor(length * exploration)
    return {
        "num_steps": num_cycles * length + draw(st.integers(0, num_cycles - 1)),
        "num_cycles": num_cycles,
        "exploration": exploration,
        "draws_per_cycle": draw(st.integers(1, sampling)),
        "final_factor": draw(FACTORS),
    }


@given(cycles())
def test_cyclical_explores_then_samples_in_every_cycle(arguments):
    schedule = cyclical(**arguments)
    num_cycles = arguments["num_cycles"]
    length = arguments["num_steps"] // num_cycles
    phases = [schedule(step) for step in range(arguments["num_steps"])]
    first, *rest = (phases[i * length : (i + 1) * length] for i in range(num_cycles))
    assert all(cycle == first for cycle in rest)

    temperatures = [phase.temperature_factor for phase in first]
    num_exploring = math.floor(length * arguments["exploration"])
    assert temperatures == [0.0] * num_exploring + [1.0] * (length - num_exploring)
    factors = [phase.lr_factor for phase in first]
    assert factors[0] == 1
    assert all(a >= b for a, b in itertools.pairwise(factors))
    assert min(factors) >= arguments["final_factor"]

    # Exactly the promised draws, evenly spread, none while exploring, the last at the end.
    collected = [step for step, phase in enumerate(first) if phase.collect]
    assert len(collected) == arguments["draws_per_cycle"]
    assert sum(phase.collect for phase in phases) == num_cycles * arguments["draws_per_cycle"]
    assert collected[0] >= num_exploring
    assert collected[-1] == length - 1
    gaps = [b - a for a, b in itertools.pairwise([num_exploring - 1, *collected])]
    assert max(gaps) - min(gaps) <= 1

    # What is left of the run stays in the last cycle's sampling phase.
    for phase in phases[num_cycles * length :]:
        assert phase.temperature_factor == 1
        assert phase.lr_factor == pytest.approx(arguments["final_factor"])
        assert not phase.collect


def test_cyclical_is_the_published_formula():
    """Zhang et al., equation 1: the factor is (cos(pi mod(k - 1, K / M) / (K / M)) + 1) / 2."""
    schedule = cyclical(num_steps=40, num_cycles=4)
    for k in range(1, 41):
        expected = (math.cos(math.pi * ((k - 1) % 10) / 10) + 1) / 2
        assert schedule(k - 1).lr_factor == pytest.approx(expected)


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_a_burn_in_of_whole_steps_is_kept_to_the_step(burn_in, sampling, num_cycles, as_share):
    length = burn_in + sampling
    explored = {"exploration": burn_in / length} if as_share else {"burn_in": burn_in}
    num_steps = num_cycles * length
    schedule = cyclical(num_steps=num_steps, num_cycles=num_cycles, draws_per_cycle=1, **explored)
    cold = [t for t in range(num_steps) if schedule(t).temperature_factor == 0]
    assert cold == [t for t in range(num_steps) if t % length < burn_in]


@given(st.integers(0, 30), st.integers(0, 60), st.integers(1, 5))
def test_chain_is_the_first_without_draws_then_the_second(switch, step, thin):
    first, second = cosine(num_steps=31), constant(thin=thin)
    phase = chain(first, switch, second)(step)
    if step < switch:
        assert phase == first(step)._replace(collect=False)
    else:
        assert phase == second(step - switch)


@given(FACTORS, STEPS)
def test_scaled_changes_nothing_but_the_learning_rate(factor, step):
    inner = cyclical(num_steps=300, num_cycles=3)
    phase = scaled(inner, factor)(step)
    assert phase == inner(step)._replace(lr_factor=inner(step).lr_factor * factor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(burn_in=-1), "burn_in must be at least 0, got -1"),
        (lambda: constant(thin=0), "thin must be at least 1, got 0"),
        (lambda: cosine(num_steps=0), "num_steps must be at least 1, got 0"),
        (lambda: cosine(num_steps=5, warm_up=5), "warm_up = 5 leaves nothing"),
        (lambda: cosine(num_steps=5, warm_up=-1), "warm_up must be at least 0"),
        (lambda: cosine(num_steps=5, final_factor=1.5), "final_factor must be in"),
        (lambda: cyclical(num_steps=50, num_cycles=0), "num_cycles must be at least 1"),
        (lambda: cyclical(num_steps=50, num_cycles=1, exploration=1.0), "exploration must be in"),
        (
            lambda: cyclical(num_steps=50, num_cycles=1, final_factor=-0.1),
            "final_factor must be in",
        ),
        (
            lambda: cyclical(num_steps=50, num_cycles=1, draws_per_cycle=0),
            "draws_per_cycle must be at least 1",
        ),
        (
            lambda: cyclical(num_steps=10, num_cycles=5, draws_per_cycle=2),
            "leave 1 sampling steps a cycle, fewer than draws_per_cycle = 2",
        ),
        (lambda: cyclical(num_steps=3, num_cycles=5), "leave 0 sampling steps"),
        (lambda: chain(constant(), -1, constant()), "switch must be at least 0"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_warm_up_rises_to_the_cosines_start():
    schedule = cosine(num_steps=6, warm_up=3)
    assert [schedule(t).lr_factor for t in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
