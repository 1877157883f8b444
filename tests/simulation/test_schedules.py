"""A part of `make simulate`: what must always pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from simulation import classes, crashes, mutants, scenarios
from simulation.schedule import Schedule, Script, quiet

TESTS = Path(__file__).parent.parent

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


@pytest.mark.parametrize("point", crashes.quick_points(), ids=str)
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
        if (outcome := Schedule(seed, scenario.script()).run()).violation is not None
    }

    assert bad == {}, scenario.must_hold


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.of} {mutant.what}")
def test_a_planted_bug_is_caught(mutant):
    assert mutants.is_caught(mutant), "no schedule shows it: the simulator would not show the real one either"


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_seed_tells_the_same_story_twice(replicas):
    first, second = (Schedule(7, Script(replicas=replicas)).run() for _ in range(2))

    assert first.trace == second.trace


@pytest.mark.parametrize("seed", ["5", "7"])
def test_a_seed_tells_the_same_story_in_every_process(seed):
    command = [sys.executable, "-m", "simulation", "--replay", seed]
    stories = [
        subprocess.run(
            command,
            cwd=TESTS,
            env={"PYTHONPATH": str(TESTS), "PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]

    assert stories[0] == stories[1]


def test_a_third_of_the_schedules_has_two_replicas():
    schedules = [Schedule(seed) for seed in range(6)]
    for schedule in schedules:
        schedule.loop.close()

    assert [len(schedule.replicas) for schedule in schedules] == [1, 1, 2, 1, 1, 2]


def test_a_sixteenth_of_the_schedules_has_a_fleet_with_rollouts():
    schedules = [Schedule(seed) for seed in range(32)]
    for schedule in schedules:
        schedule.loop.close()

    assert [schedule.seed for schedule in schedules if schedule.cluster.has_rollouts] == [15, 31]


def test_every_bug_class_is_planted_or_held_by_a_test_or_comes_with_a_feature():
    planted = {mutant.of for mutant in mutants.MUTANTS}

    assert list(classes.NAMES) == [f"G{number}" for number in range(1, 31)]
    assert planted | classes.HELD.keys() | classes.LATER.keys() == {*classes.NAMES, "own"}


@pytest.mark.parametrize("held", classes.HELD.values())
def test_a_test_that_holds_a_class_exists(held):
    path, _, name = held.partition("::")
    text = (TESTS.parent / path).read_text()

    assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)


def test_the_readme_has_a_line_for_every_class():
    text = (TESTS / "README.md").read_text()

    assert re.findall(r"^\| (G[0-9]+) \|", text, re.MULTILINE) == list(classes.NAMES)
