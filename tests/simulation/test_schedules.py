"""A part of `make simulate`: what must always pass."""

import pytest

from simulation import crashes, mutants, scenarios
from simulation.schedule import Schedule, Script, quiet

SCHEDULES = 2000
SLICES = 20

pytestmark = [
    pytest.mark.timeout(300),
    # A schedule that is broken off leaves its coroutines where they are.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def silence():
    import structlog  # noqa: PLC0415

    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("part", range(SLICES))
def test_no_schedule_violates_an_invariant(part):
    size = SCHEDULES // SLICES
    bad = {
        seed: outcome.violation
        for seed in range(part * size, (part + 1) * size)
        if (outcome := Schedule(seed).run()).violation is not None
    }

    assert bad == {}, "replay with: PYTHONPATH=tests python -m simulation --replay SEED"


@pytest.mark.parametrize("point", crashes.points(), ids=str)
def test_the_control_plane_may_die_and_calls_may_fail_at_every_point_of_every_operation(point):
    died = False
    for outcome, really in crashes.die_at(point, seeds=1):
        assert outcome.violation is None, f"seed {outcome.seed}: {outcome.violation}"
        died = died or really
        if died:
            break

    assert died, "it never came to this point"


@pytest.mark.parametrize("scenario", scenarios.SCENARIOS, ids=lambda scenario: scenario.fault)
def test_a_fault_told_in_virtual_time_holds(scenario):
    bad = {
        seed: outcome.violation
        for seed in range(10)
        if (outcome := Schedule(seed, Script(scenario=scenario.story)).run()).violation is not None
    }

    assert bad == {}, scenario.must_hold


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.of} {mutant.what}")
def test_a_planted_bug_is_caught(mutant):
    found = mutants.hunt(mutant, most=mutant.within)

    assert found is not None, "no schedule shows it: the simulator would not show the real one either"


def test_a_seed_tells_the_same_story_twice():
    first, second = Schedule(7).run(), Schedule(7).run()

    assert first.trace == second.trace
