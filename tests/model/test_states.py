"""The state machines: no state that cannot be reached, none without a way out, and a page that shows them as they are."""

import importlib
import re
from dataclasses import fields, replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from pkgutil import iter_modules

import pytest

from database_examples import NOW, a_stack
from opencode_lifecycle import application, model
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model import node
from opencode_lifecycle.model.condition import CONDITION_MOVES, Condition, ConditionKind, ConditionStatus
from opencode_lifecycle.model.errors import IllegalTransition
from opencode_lifecycle.model.migration import ORDER_MOVES, MigrationOrder, OrderOutcome, OrderState
from opencode_lifecycle.model.operation import OPERATION_MOVES, OperationState
from opencode_lifecycle.model.rollout import MEMBER_MOVES, Member, MemberState, RolloutState
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.model.states import (
    FINAL_REASONS,
    HEALTH_MOVES,
    MIGRATION_MOVES,
    PHASE_MOVES,
    Health,
    MigrationState,
    Phase,
    check_move,
)
from opencode_lifecycle.settings import Settings
from opencode_lifecycle.state_machines.of_stacks import MIGRATION, PHASE
from opencode_lifecycle.state_machines.page import MACHINES, diagram, document
from opencode_lifecycle.state_machines.parts import Bound, Machine, call_of, constant, default, setting

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
        "python -m opencode_lifecycle.state_machines > service/STATES.md"
    )


def test_every_table_of_moves_is_drawn():
    modules = [
        importlib.import_module(f"{model.__name__}.{each.name}") for each in iter_modules(model.__path__)
    ]
    tables = {
        name: table for module in modules for name, table in vars(module).items() if name.endswith("_MOVES")
    }
    del tables["_MOVES"]

    assert {id(table) for table in tables.values()} == {id(machine.moves) for machine in MACHINES}


@by_title
def test_every_state_has_its_row_in_the_table(machine):
    (states,) = {type(state) for state in machine.moves}

    assert list(machine.moves) == list(states)


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


# --- what ends each state


def exits_of(machine: Machine):
    return [(state, each) for state in machine.moves for each in machine.exits[state]]


@by_title
def test_of_every_state_it_is_told_what_ends_it(machine):
    assert list(machine.exits) == list(machine.moves)
    assert [state for state, exits in machine.exits.items() if not exits] == []


@by_title
def test_whatever_does_not_rest_is_bounded_or_ended_by_a_person(machine):
    assert [state for state, each in exits_of(machine) if not (each.within or each.asked or each.rest)] == []


@by_title
def test_what_ends_a_state_leads_where_the_table_lets_it_go(machine):
    assert [
        (state, each.to) for state, each in exits_of(machine) if not set(each.to) <= machine.moves[state]
    ] == []


@by_title
def test_what_ends_a_state_leads_somewhere(machine):
    leads_nowhere = {state for state, each in exits_of(machine) if not each.to and not each.rest}

    assert leads_nowhere <= machine.ends


UNDER_WAY = {
    "Phase": {Phase.PENDING, Phase.STARTING, Phase.STOPPING, Phase.DELETING},
    "Health": {Health.STARTING, Health.DEGRADED, Health.UNRESPONSIVE},
    "Migration state": {
        MigrationState.QUEUED,
        MigrationState.DRAINING,
        MigrationState.REPLACING,
        MigrationState.VERIFYING,
    },
    "Order": {OrderState.STANDING},
    "Operation": {OperationState.ACCEPTED, OperationState.RUNNING},
    "Rollout": {RolloutState.RUNNING, RolloutState.ROLLING_BACK, RolloutState.ABORTED},
    "Member of a rollout": {MemberState.WAITING, MemberState.ORDERED},
    "Condition": {ConditionStatus.STANDING, ConditionStatus.CONFIRMED},
}
"""Where something is on its way: each must be bounded, whoever may end it beside that."""


@by_title
def test_what_is_under_way_is_bounded_and_never_at_rest(machine):
    told = {state: machine.exits[state] for state in UNDER_WAY[machine.title]}

    assert [state for state, exits in told.items() if not any(each.within for each in exits)] == []
    assert [state for state, exits in told.items() if any(each.rest for each in exits)] == []


@by_title
def test_no_figure_is_told_but_by_the_parameter_that_it_comes_from(machine):
    assert [each.how for _, each in exits_of(machine) if re.search("[0-9]", each.how)] == []


class Watched:
    """Settings of which it is told which are read."""

    def __init__(self):
        self.read = set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(Settings.model_construct(), name)


BOUNDS = {
    bound.name: bound.value for machine in MACHINES for _, each in exits_of(machine) for bound in each.within
}


def test_every_setting_that_bounds_a_state_steers_the_control_plane():
    settings = Watched()
    application._parameters(settings)

    assert {name for name in BOUNDS if name.islower() and "." not in name} <= settings.read


def test_every_limit_that_bounds_a_state_is_what_the_control_plane_goes_by():
    limits = application._parameters(Settings.model_construct()).limits
    told = {
        name.removeprefix("Limits."): value for name, value in BOUNDS.items() if name.startswith("Limits.")
    }

    assert told == {name: getattr(limits, name) for name in told}


def test_every_limit_of_the_plan_bounds_a_state_or_is_known_to_bound_none():
    """Whoever adds one is asked here which state it bounds."""
    of_settings = {"start": "start_deadline", "stop": "stop_deadline", "idle_after": "idle_after"}
    bounds_none = {"poll", "delivery_poll", "recycle_age", "recycle_memory"}
    names = {each.name: of_settings.get(each.name, f"Limits.{each.name}") for each in fields(Limits)}

    assert {limit for limit, name in names.items() if name not in BOUNDS} == bounds_none


@pytest.mark.parametrize(
    "name_what_there_is_not",
    [
        lambda: setting("no_deadline"),
        lambda: default(Limits, "no_deadline"),
        lambda: constant(node, "NO_DEADLINE"),
        lambda: call_of("no_call"),
    ],
)
def test_a_bound_and_a_call_that_there_are_not_cannot_be_named(name_what_there_is_not):
    with pytest.raises(KeyError):
        name_what_there_is_not()


@pytest.mark.parametrize("state", MigrationState)
def test_a_migration_that_waits_for_a_person_says_so(state):
    stack = a_stack("ada", status=Status(phase_since=NOW, migration_state=state))
    asked = [each for each in MIGRATION.exits[state] if each.asked]

    assert not stack.waits_for_a_person or asked


@pytest.mark.parametrize("reason", sorted(FINAL_REASONS))
def test_a_failure_that_trying_cannot_cure_is_told_to_wait_for_a_person(reason):
    assert any(f"`{reason}`" in each.how and each.asked for each in PHASE.exits[Phase.FAILED])


def test_a_bound_is_shown_by_its_name_and_what_it_is():
    assert str(Bound("some_deadline", timedelta(minutes=3))) == "`some_deadline` (3 min)"
    assert str(Bound("soon", timedelta(milliseconds=500))) == "`soon` (0.5 s)"
    assert str(Bound("PROBES", 6)) == "`PROBES` (6)"
    assert str(Bound("pause", Backoff(first=0.5, most=300))) == "`pause` (0.5 s to 5 min)"


# --- moves


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


@pytest.mark.parametrize(("current", "to"), list(product(OrderState, repeat=2)))
def test_what_came_of_an_order_is_final(current, to):
    stack = replace(a_stack("ada"), intent=replace(a_stack("ada").intent, order=MigrationOrder(id="ro_1")))
    before, after = (replace(stack, status=status_of_order(stack, state)) for state in (current, to))
    assert (before.order_state, after.order_state) == (current, to)
    assert (current is OrderState.STANDING) is bool(ORDER_MOVES[current])

    if to in {current, *ORDER_MOVES[current]}:
        assert before.moved_to(after.status) == after
        return
    with pytest.raises(IllegalTransition, match=f"^{stack.job_id} cannot go from order {current} to {to}$"):
        before.moved_to(after.status)


def status_of_order(stack, state):
    if state is OrderState.STANDING:
        return stack.status
    return replace(stack.status, order_done="ro_1", order_outcome=OrderOutcome(state.value))


@pytest.mark.parametrize(("current", "to"), list(product(MemberState, repeat=2)))
def test_a_member_of_a_rollout_makes_exactly_the_moves_that_are_in_its_table(current, to):
    member = Member(
        rollout_id="ro_1",
        user_id="ada",
        stack_created_at=NOW,
        wave=1,
        state=current,
        generation=1,
        changed_at=NOW,
    )

    if to in {current, *MEMBER_MOVES[current]}:
        assert member.moved_to(to, message="because") == replace(member, state=to, message="because")
        return
    with pytest.raises(IllegalTransition, match=f"^ada in ro_1 cannot go from state {current} to {to}$"):
        member.moved_to(to)


@pytest.mark.parametrize(("current", "to"), list(product(ConditionStatus, repeat=2)))
def test_a_condition_makes_exactly_the_moves_that_are_in_its_table(current, to):
    times = {
        ConditionStatus.STANDING: {"confirmed_at": None, "cleared_at": None},
        ConditionStatus.CONFIRMED: {"confirmed_at": NOW, "cleared_at": None},
        ConditionStatus.CLEARED: {"cleared_at": NOW},
    }
    condition = Condition(
        id="cond_1", kind=ConditionKind.MASS_SILENCE, message="", since=NOW, **times[current]
    )

    if to in {current, *CONDITION_MOVES[current]}:
        assert condition.changed(**times[to]).status is to
        return
    with pytest.raises(IllegalTransition, match=f"^cond_1 cannot go from status {current} to {to}$"):
        condition.changed(**times[to])


def test_a_diagram_begins_at_the_entry_and_leaves_at_the_end():
    machine = Machine(
        title="Door",
        about="",
        moves={Health.STARTING: frozenset({Health.HEALTHY}), Health.HEALTHY: frozenset()},
        entries=(Health.STARTING,),
        ends=frozenset({Health.HEALTHY}),
        exits={},
    )

    assert diagram(machine).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> starting",
        "    starting --> healthy",
        "    healthy --> [*]",
        "```",
    ]
