"""
No plan makes a move that the tables do not allow.

From every phase, health and migration state, whatever is wanted, in every circumstance that a plan has a rule for.
"""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from database_examples import ADA, FACETS, NOW, RUNTIME, a_stack
from opencode_lifecycle.lifecycle.reconciling.planning import failed, plan
from opencode_lifecycle.lifecycle.reconciling.steps import Limits, Move, Part, Rest, Step, Work
from opencode_lifecycle.model.identifiers import job_id_of
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.migration import AtDeadline, Footing, MigrationOrder
from opencode_lifecycle.model.observation import ABSENT, AllocationSeen, ClientStatus, JobSeen, Observation
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason, WhenStale
from opencode_lifecycle.ports.prober import Activity, Liveness, Reloaded, ReloadResult
from opencode_lifecycle.ports.secrets import SecretSeen

LIMITS = Limits(start=timedelta(minutes=3), stop=timedelta(minutes=2))
JOB = JobSeen(
    job_id=job_id_of("main", ADA),
    version=RUNTIME.job_version,
    modify_index=5,
    stopped=False,
    meta={**FACETS.meta(), "managed_by": "opencode-lifecycle", "installation": "main", "user": ADA},
)
RUNS = AllocationSeen(
    id=RUNTIME.allocation_id,
    job_version=RUNTIME.job_version,
    modify_index=6,
    create_index=5,
    desired_status="run",
    client_status=ClientStatus.RUNNING,
    node_id="n1",
    node_name="node",
    address=RUNTIME.address,
    restarts=RUNTIME.restarts,
)
ENDED = replace(RUNS, client_status=ClientStatus.COMPLETE)
STOPPED = replace(JOB, stopped=True)
SIGHTS = [
    Observation(job=job, allocations=allocations, index=9, observed_at=NOW)
    for job, allocations in [
        (ABSENT, ()),
        (STOPPED, (RUNS,)),
        (STOPPED, (ENDED,)),
        (JOB, (RUNS,)),
        (JOB, (ENDED,)),
        (replace(JOB, meta={}), ()),
    ]
]
PROOF = Proof(
    result=ProofResult.PROVEN,
    address=RUNTIME.address,
    allocation_id=RUNTIME.allocation_id,
    restarts=RUNTIME.restarts,
    version=RUNTIME.opencode_version,
    at=NOW,
)
CIRCUMSTANCES = {
    "nothing is wrong": {},
    "one probe was left unanswered": {"silent_probes": 1},
    "it is unresponsive": {"silent_probes": 3},
    "it is wedged": {"silent_probes": 50},
    "its address is in doubt": {"doubt": "it is listed twice"},
    "it is open": {"liveness": Liveness.OPEN, "proof": replace(PROOF, result=ProofResult.OPEN)},
    "nothing is proven": {"proof": None},
    "its secret was changed": {"secret": SecretSeen(version=FACETS.secret_version + 1)},
    "its labels are stale": {"wanted": replace(FACETS, labels="other")},
    "its prompt is stale": {"wanted": replace(FACETS, prompt="other")},
    **{
        f"its image is stale, which is for {when}": {
            "wanted": replace(FACETS, image="other"),
            "when_stale": when,
        }
        for when in WhenStale
    },
}
LATER = NOW + timedelta(hours=2)
"""When the plans are made."""
AT_WORK = {"activity": Activity(busy=True, changed_at=LATER), "activity_at": LATER}
CIRCUMSTANCES |= {
    "its image is stale, and its agent at work": {"wanted": replace(FACETS, image="other"), **AT_WORK},
    "its config is stale and there, and its agent at work": {
        "wanted": replace(FACETS, config="other"),
        "delivered": True,
        "done": frozenset(Part),
        **AT_WORK,
    },
    "its config is stale and not there": {
        "wanted": replace(FACETS, config="other"),
        "delivered": False,
        "done": frozenset(Part),
    },
    "its config is stale and cannot be loaded": {
        "wanted": replace(FACETS, config="other"),
        "delivered": True,
        "reloaded": Reloaded(result=ReloadResult.BAD_CONFIG),
        "done": frozenset(Part),
    },
    "what is asked for was taken back": {"asked": replace(FACETS, image="other")},
    **{
        f"an order to {at_deadline} is past its deadline": {
            "wanted": replace(FACETS, image="other"),
            "order": MigrationOrder(id="ro_1", deadline=NOW, at_deadline=at_deadline),
            "done": frozenset(Part),
            **AT_WORK,
        }
        for at_deadline in AtDeadline
    },
}
in_every_circumstance = pytest.mark.parametrize("circumstance", CIRCUMSTANCES.values(), ids=CIRCUMSTANCES)


def is_written(status: Status, desired: Desired) -> bool:
    """Whether it may be found in the database: what runs was proven, and what is being deleted is wanted deleted."""
    if status.phase is Phase.DELETING:
        return desired is Desired.DELETED
    return status.phase is not Phase.RUNNING or status.health not in {Health.UNKNOWN, Health.STARTING}


STACKS = [
    a_stack(status=status, desired=desired)
    for phase, health, migration, since, desired in product(
        Phase, Health, MigrationState, [NOW, NOW - timedelta(hours=1)], Desired
    )
    if is_written(
        status := Status(
            phase=phase,
            phase_since=since,
            health=health,
            migration_state=migration,
            facets=FACETS,
            secret_version=FACETS.secret_version,
            job_modify_index=JOB.modify_index,
            runtime=RUNTIME if phase in {Phase.RUNNING, Phase.STOPPING} else None,
            attempts=1,
        ),
        desired,
    )
]


BUILDING = Footing(release="rel_1", resources="small", environment={}, facets=FACETS)


def work_on(stack: Stack, seen: Observation, circumstance: dict[str, object]) -> Work:
    stack = replace(stack, intent=replace(stack.intent, order=circumstance.get("order")))
    circumstance = {name: value for name, value in circumstance.items() if name != "order"}
    usual = {
        "proof": PROOF,
        "liveness": None,
        "silent_probes": 0,
        "wanted": FACETS,
        "activity": Activity(busy=False, changed_at=None),
        "activity_at": NOW,
        "done": frozenset({Part.LOOK, Part.ACTIVITY}),
    }
    return Work(
        stack=stack,
        observation=seen,
        needs=TemplateNeeds(secret=True, workspace=True, live_files=True),
        installation="main",
        **{"asked": circumstance.get("wanted", FACETS), "building": BUILDING, **usual, **circumstance},
    )


def followed(work: Work) -> tuple[Stack, Step]:
    """Follow the plan through its moves to the first step that is none. Raises for a move that is not in the tables."""
    for _ in range(8):
        step = plan(work, now=LATER, limits=LIMITS)
        if isinstance(step, Rest):
            return work.stack.moved_to(step.status), step
        if not isinstance(step, Move):
            return work.stack, step
        work = replace(work, stack=work.stack.moved_to(step.status))
    raise AssertionError(f"moves without end from {work}")


@in_every_circumstance
def test_no_plan_makes_a_move_that_the_tables_do_not_allow(circumstance):
    for stack, seen in product(STACKS, SIGHTS):
        followed(work_on(stack, seen, circumstance))


def test_what_is_held_against_the_tables_is_all_that_plans_do():
    reached = {
        state
        for circumstance in CIRCUMSTANCES.values()
        for stack in STACKS
        if stack.status.migration_state is MigrationState.CURRENT
        for seen in SIGHTS
        for after in [followed(work_on(stack, seen, circumstance))[0].status]
        for state in (
            ("phase", after.phase),
            ("health", after.health),
            ("migration state", after.migration_state),
        )
    }

    assert reached == {
        *(("phase", phase) for phase in Phase),
        *(("health", health) for health in Health),
        *(("migration state", state) for state in MigrationState),
    }


@pytest.mark.parametrize("reason", Reason)
def test_a_stack_may_fail_wherever_it_is_unless_it_is_deleted(reason):
    for stack in STACKS:
        if stack.status.phase is not Phase.DELETING:
            stack.moved_to(failed(stack, reason, "", NOW))
