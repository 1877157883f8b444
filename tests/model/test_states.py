"""The state machines: no state that cannot be reached, none without a way out, and a page that shows them as they are."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from database_examples import NOW, a_stack
from opencode_lifecycle.model.diagrams import MACHINES, Machine, diagram, document
from opencode_lifecycle.model.errors import IllegalTransition
from opencode_lifecycle.model.operation import OPERATION_MOVES, OperationState
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import (
    HEALTH_MOVES,
    MIGRATION_MOVES,
    PHASE_EXITS,
    PHASE_MOVES,
    Health,
    MigrationState,
    Phase,
    check_move,
)

TABLES = {"phase": PHASE_MOVES, "health": HEALTH_MOVES, "migration_state": MIGRATION_MOVES}
PAGE = Path(__file__).parents[2] / "service" / "STATES.md"
by_title = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.title)


def reached_from(machine: Machine, *entries):
    reached, ahead = set(), list(entries)
    while ahead:
        state = ahead.pop()
        if state not in reached:
            reached.add(state)
            ahead += machine.moves[state]
    return reached


def test_the_page_shows_the_tables_as_they_are():
    is_current = PAGE.read_text() == document()

    assert is_current, (
        "service/STATES.md is not what the tables say; regenerate it with: "
        "python -m opencode_lifecycle.model.diagrams > service/STATES.md"
    )


@pytest.mark.parametrize(
    ("table", "states"),
    [
        (PHASE_MOVES, Phase),
        (HEALTH_MOVES, Health),
        (MIGRATION_MOVES, MigrationState),
        (OPERATION_MOVES, OperationState),
    ],
)
def test_every_state_has_its_row_in_the_table(table, states):
    assert list(table) == list(states)


@by_title
def test_no_state_is_drawn_as_going_to_itself(machine):
    assert [state for state, targets in machine.moves.items() if state in targets] == []


@by_title
def test_every_state_is_reachable_from_the_first(machine):
    assert reached_from(machine, machine.entries[0]) == set(machine.moves)


@by_title
def test_every_state_but_the_final_ones_has_a_way_out(machine):
    dead_ends = {state for state, targets in machine.moves.items() if not targets}

    assert dead_ends <= machine.ends


def test_a_stack_can_come_to_run_from_every_phase():
    (machine,) = (each for each in MACHINES if each.title == "Phase")

    assert all(Phase.RUNNING in reached_from(machine, phase) for phase in Phase)


def test_a_migration_can_become_current_and_stale_from_every_state():
    for state in MigrationState:
        assert {MigrationState.CURRENT, MigrationState.STALE} <= {state, *MIGRATION_MOVES[state]}


@pytest.mark.parametrize("state", MigrationState)
def test_a_migration_can_fail_from_every_state(state):
    check_move("oc-ada", state, MigrationState.FAILED)


def test_every_health_can_become_unknown():
    assert all(Health.UNKNOWN in {health, *HEALTH_MOVES[health]} for health in Health)


@pytest.mark.parametrize("state", OperationState)
def test_an_operation_is_finished_when_it_can_go_nowhere(state):
    finished = {OperationState.SUCCEEDED, OperationState.FAILED, OperationState.SUPERSEDED}

    assert state.is_finished == (state in finished) == (not OPERATION_MOVES[state])


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_says_what_gets_a_stack_out_of_it(phase):
    assert PHASE_EXITS[phase]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.DELETING])
def test_stopping_is_legal_from_every_phase(phase):
    check_move("oc-ada", phase, Phase.STOPPED)
    if phase is not Phase.FAILED:
        check_move("oc-ada", phase, Phase.STOPPING)


@pytest.mark.parametrize("phase", Phase)
def test_deleting_is_legal_from_every_phase(phase):
    check_move("oc-ada", phase, Phase.DELETING)


@pytest.mark.parametrize("phase", Phase)
def test_staying_is_legal(phase):
    check_move("oc-ada", phase, phase)


PAIRS = [
    (field, current, to)
    for field, states in (("phase", Phase), ("health", Health), ("migration_state", MigrationState))
    for current, to in product(states, repeat=2)
]


@pytest.mark.parametrize(("field", "current", "to"), PAIRS)
def test_a_stack_makes_exactly_the_moves_that_are_in_the_tables(field, current, to):
    stack = a_stack("ada", status=Status(phase_since=NOW, **{field: current}))
    status = replace(stack.status, **{field: to})
    is_legal = to in {current, *TABLES[field][current]}

    if is_legal:
        assert stack.moved_to(status) == replace(stack, status=status)
        return
    name = field.replace("_", " ")
    with pytest.raises(IllegalTransition, match=f"^{stack.job_id} cannot go from {name} {current} to {to}$"):
        stack.moved_to(status)


def test_a_diagram_begins_at_the_entry_and_leaves_at_the_end():
    machine = Machine(
        title="Door",
        about="",
        moves={Health.STARTING: frozenset({Health.HEALTHY}), Health.HEALTHY: frozenset()},
        entries=(Health.STARTING,),
        ends=frozenset({Health.HEALTHY}),
    )

    assert diagram(machine).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> starting",
        "    starting --> healthy",
        "    healthy --> [*]",
        "```",
    ]
