"""The rules of the plan, over every combination of what is wanted, where the stack is, and what is seen."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_lifecycle.lifecycle.reconciling.planning import plan
from opencode_lifecycle.lifecycle.reconciling.steps import (
    AbortTurns,
    DestroySecret,
    DestroyWorkspace,
    FinishDeletion,
    Limits,
    Look,
    Move,
    Part,
    PurgeJob,
    RegisterJob,
    Rest,
    Step,
    StopJob,
    Work,
)
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import AllocationId, ReleaseId, UserId, VolumeId, job_id_of
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.migration import MigrationOrder
from opencode_lifecycle.model.node import ClosedNode, Drain
from opencode_lifecycle.model.observation import (
    ABSENT,
    AllocationSeen,
    ClientStatus,
    JobSeen,
    Observation,
    TaskTrouble,
)
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address, Intent, Runtime, Stack, Status, Workspace
from opencode_lifecycle.model.states import (
    OUTAGES,
    Desired,
    Health,
    MigrationState,
    Phase,
    Reason,
    WhenStale,
)
from opencode_lifecycle.ports.prober import Liveness

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(start=timedelta(minutes=3), stop=timedelta(minutes=2))
USER = UserId("ada")
JOB = job_id_of("main", USER)
FACETS = Facets(
    image="",
    opencode_version="1.18.34",
    template="t",
    environment="e",
    resources="r",
    secret_version=1,
    prompt="p",
    config="c",
    labels="l",
    endpoints="n",
)
OURS = {**FACETS.meta(), "managed_by": "opencode-lifecycle", "installation": "main", "user": "ada"}
ADDRESS = Address(host="127.0.0.1", port=4096)

jobs = st.one_of(
    st.just(ABSENT),
    st.builds(
        JobSeen,
        job_id=st.just(JOB),
        version=st.integers(0, 2),
        modify_index=st.integers(1, 30),
        stopped=st.booleans(),
        meta=st.sampled_from([OURS, {**OURS, "installation": "other"}, {}, {**OURS, "secret_version": "x"}]),
    ),
)
allocations = st.builds(
    AllocationSeen,
    id=st.sampled_from([AllocationId("a1"), AllocationId("a2")]),
    job_version=st.integers(0, 2),
    modify_index=st.integers(1, 30),
    create_index=st.integers(1, 30),
    desired_status=st.sampled_from(["run", "stop"]),
    client_status=st.sampled_from(ClientStatus),
    node_id=st.just("n1"),
    node_name=st.just("node"),
    address=st.sampled_from([None, ADDRESS]),
    restarts=st.integers(0, 1),
    trouble=st.sampled_from([None, *TaskTrouble]),
)
observations = st.builds(
    Observation,
    job=jobs,
    allocations=st.lists(allocations, max_size=2).map(tuple),
    placement_failure=st.sampled_from([None, "no room"]),
    index=st.integers(1, 40),
    observed_at=st.just(NOW),
)
runtimes = st.builds(
    Runtime,
    allocation_id=st.sampled_from([AllocationId("a1"), AllocationId("a2")]),
    job_version=st.integers(0, 2),
    node=st.just("node"),
    image=st.just(""),
    opencode_version=st.just("1.18.34"),
    revision=st.just(FACETS.revision),
    secret_version=st.just(1),
    release=st.just(ReleaseId("rel_1")),
    restarts=st.integers(0, 1),
    started_at=st.just(None),
    address=st.just(ADDRESS),
    proven_at=st.just(NOW),
)
statuses = st.builds(
    Status,
    observed_generation=st.integers(0, 3),
    phase=st.sampled_from(Phase),
    phase_since=st.sampled_from([NOW, NOW - timedelta(minutes=1), NOW - timedelta(hours=1)]),
    health=st.sampled_from(Health),
    migration_state=st.sampled_from(MigrationState),
    reason=st.sampled_from([None, *Reason]),
    facets=st.sampled_from(
        [None, FACETS, replace(FACETS, labels="other"), replace(FACETS, environment="other")]
    ),
    secret_version=st.sampled_from([None, 1]),
    workspace=st.sampled_from([None, Workspace(volume_id=VolumeId("v"), node_id="n1", path="/v")]),
    job_modify_index=st.sampled_from([None, 5]),
    fresh_start_done=st.integers(0, 3),
    rotation_done=st.integers(0, 3),
    runtime=st.one_of(st.none(), runtimes),
    attempts=st.integers(0, 5),
)
intents = st.builds(
    Intent,
    generation=st.integers(1, 3),
    desired=st.sampled_from(Desired),
    group=st.just("default"),
    resources=st.just("small"),
    labels=st.just({}),
    environment=st.just({}),
    wanted_release=st.just(ReleaseId("rel_1")),
    fresh_start=st.integers(0, 3),
    rotation=st.integers(0, 3),
    delete_workspace=st.booleans(),
)
stacks = st.builds(
    Stack,
    user_id=st.just(USER),
    job_id=st.just(JOB),
    namespace=st.just("opencode"),
    region=st.just("global"),
    intent=intents,
    status=statuses,
    created_at=st.just(NOW),
    updated_at=st.just(NOW),
)
proofs = st.one_of(
    st.none(),
    st.builds(
        Proof,
        result=st.sampled_from(ProofResult),
        address=st.just(ADDRESS),
        allocation_id=st.sampled_from([AllocationId("a1"), AllocationId("a2")]),
        restarts=st.integers(0, 1),
        version=st.just("1.18.34"),
        at=st.just(NOW),
    ),
)


def reachable(stack: Stack) -> Stack:
    """
    Leave out what is never written.

    A stack that is being deleted is wanted deleted: an ensure meanwhile waits beside it, as its successor. One that runs
    was proven, and so its health is known.
    """
    status = stack.status
    if status.phase is Phase.DELETING:
        return replace(stack, intent=replace(stack.intent, desired=Desired.DELETED))
    if status.phase is Phase.RUNNING and status.health in {Health.UNKNOWN, Health.STARTING}:
        return replace(stack, status=replace(status, health=Health.HEALTHY))
    return stack


drains = st.sampled_from(
    [None, *(Drain(deadline=at) for at in (None, NOW - timedelta(hours=1), NOW + timedelta(hours=1)))]
)
closed_nodes = st.builds(ClosedNode, id=st.sampled_from(["n1", "n2"]), name=st.just("node"), drain=drains)


works = st.builds(
    Work,
    stack=stacks.map(reachable),
    observation=st.one_of(st.none(), observations),
    proof=proofs,
    liveness=st.sampled_from([None, *Liveness]),
    silent_probes=st.integers(0, 8),
    when_stale=st.sampled_from(WhenStale),
    wanted=st.just(FACETS),
    needs=st.just(TemplateNeeds(secret=True, workspace=True, live_files=True)),
    installation=st.just("main"),
    closed_node=st.one_of(st.none(), closed_nodes),
    nodes_age=st.sampled_from([timedelta(0), timedelta(seconds=30)]),
    done=st.sets(st.sampled_from(Part)).map(frozenset),
)

DESTRUCTIVE = (StopJob, PurgeJob, DestroySecret, DestroyWorkspace, FinishDeletion)


def step_of(work: Work) -> Step:
    return plan(work, now=NOW, limits=LIMITS)


def after_moves(work: Work) -> tuple[Work, Step]:
    """Follow the plan through its moves to the first step that is none."""
    for _ in range(12):
        step = step_of(work)
        if not isinstance(step, Move):
            return work, step
        work = replace(work, stack=work.stack.moved_to(step.status))
    raise AssertionError(f"moves without end from {work}")


@given(works)
@settings(max_examples=200, deadline=None)
def test_every_situation_has_a_next_step_and_moves_come_to_an_end(work):
    after_moves(work)


@given(works)
@settings(max_examples=200, deadline=None)
def test_what_cannot_be_seen_is_looked_at_and_never_acted_on(work):
    step = step_of(replace(work, observation=None))

    assert isinstance(step, Look | Rest)


@given(works)
@settings(max_examples=200, deadline=None)
def test_a_job_that_is_not_provably_ours_is_never_stopped_purged_or_replaced(work):
    seen = work.observation
    if seen is None or not isinstance(seen.job, JobSeen) or seen.job.belongs_to("main"):
        return

    _, step = after_moves(work)

    assert not isinstance(step, StopJob | PurgeJob | RegisterJob)


@given(works)
@settings(max_examples=200, deadline=None)
def test_no_job_is_registered_while_an_allocation_may_still_hold_the_workspace(work):
    _, step = after_moves(work)

    if isinstance(step, RegisterJob):
        assert work.observation is not None
        in_place = work.stack.status.phase is Phase.RUNNING
        assert in_place or not work.observation.live


@given(works)
@settings(max_examples=200, deadline=None)
def test_a_job_is_purged_only_when_nothing_of_it_runs(work):
    _, step = after_moves(work)

    if isinstance(step, PurgeJob):
        assert work.observation is not None
        assert not work.observation.live


@given(works)
@settings(max_examples=200, deadline=None)
def test_nothing_is_taken_for_ended_of_which_a_list_shows_no_allocation(work):
    seen = work.observation
    if seen is None or not isinstance(seen.job, JobSeen) or not seen.job.belongs_to("main"):
        return
    was_stopped = work.stack.status.phase is Phase.STOPPED
    listed = replace(seen, job=replace(seen.job, stopped=True), allocations=())

    resting, step = after_moves(replace(work, observation=listed, done=work.done - {Part.LOOK}))

    assert was_stopped or resting.stack.status.phase is not Phase.STOPPED
    assert not isinstance(step, RegisterJob | PurgeJob)


@given(works)
@settings(max_examples=200, deadline=None)
def test_nothing_is_destroyed_of_a_stack_that_shall_run_or_rest(work):
    if work.stack.intent.desired is Desired.DELETED:
        return

    _, step = after_moves(work)

    assert not isinstance(step, PurgeJob | DestroySecret | DestroyWorkspace | FinishDeletion)


@given(works)
@settings(max_examples=200, deadline=None)
def test_planning_at_rest_again_gives_the_same_rest(work):
    resting, step = after_moves(work)
    if not isinstance(step, Rest):
        return

    again = step_of(replace(resting, stack=replace(resting.stack, status=step.status)))

    assert isinstance(again, Rest)
    assert again.status == step.status


@given(works)
@settings(max_examples=200, deadline=None)
def test_a_stack_is_only_called_running_with_a_proof_of_the_allocation_it_names(work):
    if work.stack.status.phase is Phase.RUNNING:
        return

    resting, _ = after_moves(work)

    if resting.stack.status.phase is Phase.RUNNING:
        assert work.proof is not None
        assert work.proof.result is ProofResult.PROVEN
        assert resting.stack.status.runtime is not None
        assert resting.stack.status.runtime.allocation_id == work.proof.allocation_id


@given(works)
@settings(max_examples=200, deadline=None)
def test_stop_and_delete_have_a_way_forward_from_every_phase(work):
    if work.stack.intent.desired is Desired.RUNNING or work.observation is None:
        return

    resting, step = after_moves(work)

    if isinstance(step, Look | AbortTurns):
        return
    assert resting.stack.status.phase in {Phase.STOPPING, Phase.STOPPED, Phase.DELETING}
    if isinstance(step, Rest) and resting.stack.status.phase is not Phase.STOPPED:
        assert step.wait is not None


@given(works, st.sampled_from([Phase.PENDING, Phase.FAILED]), st.sampled_from(sorted(OUTAGES)))
@settings(max_examples=200, deadline=None)
def test_what_was_given_up_while_a_neighbour_was_away_is_not_stopped_for_an_order_before_it_is_seen_to_run(
    work, phase, reason
):
    order = MigrationOrder(id="ro_1", fresh=True)
    intent = replace(work.stack.intent, desired=Desired.RUNNING, fresh_start=4, order=order)
    status = replace(work.stack.status, phase=phase, reason=reason, runtime=None)
    ordered = replace(
        work, stack=replace(work.stack, intent=intent, status=status), proof=None, done=frozenset()
    )
    if not isinstance(work.observation, Observation) or not _runs(work.observation):
        return

    resting, step = after_moves(ordered)

    assert not isinstance(step, StopJob)
    assert resting.stack.status.phase is not Phase.STOPPING


def _runs(seen: Observation) -> bool:
    return isinstance(seen.job, JobSeen) and not seen.job.stopped and seen.job.belongs_to("main")


@given(works)
@settings(max_examples=200, deadline=None)
def test_no_job_is_registered_that_could_only_wait_for_its_node(work):
    _, step = after_moves(work)

    if isinstance(step, RegisterJob) and work.stack.status.phase is not Phase.RUNNING:
        node, workspace = work.closed_node, work.stack.status.workspace
        assert node is None or workspace is None or workspace.node_id != node.id


@given(works)
@settings(max_examples=200, deadline=None)
def test_nothing_is_stopped_or_held_for_a_node_of_which_nothing_is_known(work):
    before = replace(work.stack.status, reason=None)
    blind = replace(work, stack=replace(work.stack, status=before), closed_node=None, nodes_age=None)

    resting, _ = after_moves(blind)

    assert resting.stack.status.reason is not Reason.NODE_DRAINING


@given(works)
@settings(max_examples=200, deadline=None)
def test_what_is_held_for_its_node_is_not_started_before_that_is_known_to_be_open(work):
    if work.stack.intent.desired is not Desired.RUNNING or work.observation is None:
        return
    seen = work.observation
    runs = (isinstance(seen.job, JobSeen) and not seen.job.stopped) or seen.live
    is_foreign = isinstance(seen.job, JobSeen) and not seen.job.belongs_to("main")
    if runs or is_foreign or work.stack.status.workspace is None:
        return
    held = replace(work.stack.status, phase=Phase.STOPPED, reason=Reason.NODE_DRAINING, runtime=None)
    no_fresh_start = replace(work.stack.intent, fresh_start=0)
    stack = replace(work.stack, status=held, intent=no_fresh_start)

    resting, step = after_moves(replace(work, stack=stack, closed_node=None, nodes_age=None))

    assert isinstance(step, Rest)
    assert resting.stack.status.phase is Phase.STOPPED
