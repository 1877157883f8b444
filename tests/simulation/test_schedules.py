"""A part of `make simulate`: what must always pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure
from simulation import __main__ as main
from simulation import classes, crashes, mutants, replaying, scenarios
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

    assert bad == {}, "\n".join(map(replaying.command, bad))


@pytest.mark.parametrize("point", crashes.quick_points(), ids=str)
def test_the_control_plane_may_die_and_calls_may_fail_at_every_point_of_every_operation(point):
    died = False
    for outcome, really in crashes.die_at(point, seeds=1):
        how = replaying.command(outcome.seed, point=str(point))
        assert outcome.violation is None, f"{outcome.violation}\n{how}"
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

    assert bad == {}, "\n".join(replaying.command(seed, story=scenario.fault) for seed in bad)


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


def story_of(command):
    """Run what *command* says, in a shell, and return what it tells."""
    ran = subprocess.run(command, shell=True, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert ran.returncode in {0, 1}, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_fails_at_a_point_is_told_again_by_the_command_that_is_printed(replicas):
    point = crashes.Point.named("rotate: fails after vault.rotate number 1")
    outcome, really = crashes.run(point, 3, replicas=replicas)

    told = story_of(replaying.command(3, point=str(point), replicas=replicas))

    assert really
    assert told[:-1] == list(outcome.trace)


def test_what_fails_in_a_told_fault_is_told_again_by_the_command_that_is_printed():
    outcome = Schedule(3, scenarios.named("F25").script()).run()

    assert story_of(replaying.command(3, story="F25"))[:-1] == list(outcome.trace)


def test_every_point_is_found_by_its_name():
    points = crashes.quick_points()

    assert [crashes.Point.named(str(point)) for point in points] == points


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 1), (["--schedules", "5000"], 0), (["--planted"], 0)], ids=str
)
def test_only_a_whole_run_fails_when_it_takes_longer_than_it_may(arguments, code, monkeypatch, tmp_path):
    well = Figure(name="what else there is", value=1, unit="", bar="1", holds=True)
    for part in ("_crash_points", "_stories", "_schedules", "_planted"):
        monkeypatch.setattr(main, part, lambda *_: well)
    monkeypatch.setattr(main, "REPORT", tmp_path / "simulate.json")
    monkeypatch.setattr(main, "_MOST_MINUTES", 0)

    assert main.main(arguments) == code


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
