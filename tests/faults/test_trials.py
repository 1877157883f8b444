"""The arithmetic of the report. Needs no server."""

import json

from faults.matrix import MATRIX, Fault
from faults.trials import Outcome, Trial, figures_of, measured_in

TWO = {
    "F1": Fault(injected="a kill", must_hold="nothing is lost"),
    "F2": Fault(injected="a freeze", must_hold="no double work"),
}


def outcome(name: str, number: int, test: str, *, held: bool = True, seconds: float | None = None) -> Outcome:
    trial = Trial(name, number, 2)
    if seconds is not None:
        trial.recoveries.append(seconds)
    return Outcome(trial=trial, test=test, held=held, error="" if held else "assert 2 == 1")


def test_a_repetition_held_when_every_test_of_the_fault_held_in_it():
    outcomes = [
        outcome("F1", 0, "test_a"),
        outcome("F1", 0, "test_b", held=False),
        outcome("F1", 1, "test_a"),
        outcome("F1", 1, "test_b"),
    ]

    [figure] = figures_of(outcomes, TWO)

    assert (figure.value, figure.unit, figure.holds) == (1, "of 2 repetitions", False)
    assert figure.details["failed"] == [{"test": "test_b", "repetition": 1, "error": "assert 2 == 1"}]


def test_a_fault_that_was_not_tried_is_not_in_the_report():
    figures = figures_of([outcome("F2", 0, "test_a")], TWO)

    assert [(figure.name, figure.bar) for figure in figures] == [("F2: a freeze", "no double work")]


def test_the_time_to_recover_is_the_median_of_all_that_were_taken():
    outcomes = [outcome("F1", number, "test_a", seconds=number + 1.0) for number in range(3)]

    [figure] = figures_of([*outcomes, outcome("F1", 0, "test_b")], TWO)

    assert figure.details["recovery_seconds"] == {"median": 2.0, "max": 3.0, "n": 3}


def test_what_was_measured_besides_is_shown_with_its_worst():
    outcomes = [outcome("F1", number, "test_a") for number in range(3)]
    for each, points in zip(outcomes, (25, 11, 13), strict=True):
        each.trial.measured["crash points"] = points

    assert measured_in(figures_of(outcomes, TWO)) == ["F1, crash points: median 13, max 25"]


def test_what_came_of_a_trial_is_the_same_when_a_worker_has_sent_it():
    sent = outcome("F1", 1, "test_a", held=False, seconds=2.5)
    sent.trial.measured["crash points"] = 25

    received = Outcome.from_plain(json.loads(json.dumps(sent.as_plain())))

    assert figures_of([received], TWO) == figures_of([sent], TWO)
    assert received.as_plain() == sent.as_plain()


def test_the_same_repetition_draws_the_same():
    draws = [Trial("F6", 3, 20).random.random() for _ in range(2)]

    assert draws[0] == draws[1] != Trial("F6", 4, 20).random.random()


def test_the_matrix_has_every_fault_that_is_for_the_real_servers():
    wanted = {f"F{number}" for number in (1, 5, 6, 7, 9, 10, 13, 15, 18, 23, 25, 26, 27, 29, 30)}

    assert wanted <= set(MATRIX)
