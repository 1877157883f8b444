"""What memory says is known, and when it says that it does not know."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.identifiers import AllocationId, JobId, ReleaseId, UserId, job_id_of
from opencode_lifecycle.model.observation import ABSENT, AllocationSeen, ClientStatus, JobSeen, Observation
from opencode_lifecycle.model.stack import Address, Intent, Runtime, Stack, Status
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.ports.orchestrator import AllocationChanged, JobChanged, Listing, PlacementChanged
from opencode_lifecycle.ports.prober import Activity, Liveness
from opencode_lifecycle.ports.stores import StackChange

USER = UserId("ada")
JOB = job_id_of("main", USER)


class Time:
    """A clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.passed = 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.passed

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.passed += seconds

    def is_set(self, by: timedelta) -> None:
        self.now += by


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def fleet(time):
    made = Fleet(now=time, max_age=timedelta(seconds=30), monotonic=time.monotonic)
    made.put(a_stack())
    return made


def a_stack(seq: int = 1) -> Stack:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Stack(
        user_id=USER,
        job_id=JOB,
        namespace="opencode",
        region="global",
        intent=Intent(
            generation=1,
            desired=Desired.RUNNING,
            group="default",
            resources="small",
            labels={},
            environment={},
            wanted_release=ReleaseId("rel_1"),
        ),
        status=Status(phase_since=moment),
        created_at=moment,
        updated_at=moment,
        change_seq=seq,
    )


def a_job(index: int = 10, **changes) -> JobSeen:
    return JobSeen(
        **{"job_id": JOB, "version": 0, "modify_index": index, "stopped": False, "meta": {}, **changes}
    )


def an_allocation(
    index: int, status: ClientStatus = ClientStatus.RUNNING, name: str = "a1"
) -> AllocationSeen:
    return AllocationSeen(
        id=AllocationId(name),
        job_version=0,
        modify_index=index,
        create_index=int(name[1:]),
        desired_status="run",
        client_status=status,
        node_id="n",
        node_name="n",
    )


def listing(time: Time, index: int, **stacks: Observation) -> Listing:
    return Listing(
        index=index, observed_at=time(), stacks={JobId(key): value for key, value in stacks.items()}
    )


def seen(time: Time, index: int, *allocations: AllocationSeen) -> Observation:
    return Observation(job=a_job(), allocations=allocations, index=index, observed_at=time())


def test_before_the_first_listing_nothing_is_known(fleet):
    assert fleet.observation(JOB) is None


def test_a_job_that_a_whole_listing_does_not_name_is_absent(fleet, time):
    fleet.apply_listing(listing(time, 20))

    observation = fleet.observation(JOB)
    assert observation is not None
    assert observation.job is ABSENT


def test_what_was_seen_too_long_ago_is_unknown(fleet, time):
    fleet.apply_listing(listing(time, 20))
    time.passes(31)

    assert fleet.observation(JOB) is None


@pytest.mark.parametrize("by", ["a listing", "an event", "a direct read"])
def test_what_was_seen_too_long_ago_is_unknown_although_the_clock_was_set_back(fleet, time, by):
    fleet.apply_listing(listing(time, 20, **{JOB: seen(time, 20)}))
    if by == "an event":
        fleet.apply(AllocationChanged(index=21, job_id=JOB, allocation=an_allocation(21)))
    elif by == "a direct read":
        fleet.see(JOB, seen(time, 21))
    time.is_set(by=-timedelta(hours=1))
    time.passes(29)
    assert fleet.observation(JOB) is not None

    time.passes(2)

    assert fleet.observation(JOB) is None


def test_what_is_listed_again_after_the_clock_was_set_back_is_known(fleet, time):
    fleet.apply_listing(listing(time, 20, **{JOB: seen(time, 20)}))
    fleet.apply(AllocationChanged(index=21, job_id=JOB, allocation=an_allocation(21)))
    time.is_set(by=-timedelta(hours=1))
    time.passes(31)

    fleet.apply_listing(listing(time, 22, **{JOB: seen(time, 22, an_allocation(21))}))
    time.passes(29)

    assert fleet.observation(JOB) is not None


def test_a_later_listing_keeps_an_unchanged_observation_young(fleet, time):
    observation = seen(time, 15)
    fleet.apply_listing(listing(time, 20, **{JOB: observation}))
    time.passes(25)
    fleet.apply_listing(listing(time, 21, **{JOB: observation}))
    time.passes(25)

    assert fleet.observation(JOB) is not None


def test_nothing_seen_before_our_own_last_write_decides_anything(fleet, time):
    fleet.apply_listing(listing(time, 20, **{JOB: seen(time, 20)}))
    fleet.wrote(JOB, 25)

    assert fleet.observation(JOB) is None
    fleet.apply(JobChanged(index=25, job_id=JOB, job=a_job(25)))
    assert fleet.observation(JOB) is not None


@pytest.mark.parametrize(
    "event",
    [
        AllocationChanged(index=26, job_id=JOB, allocation=an_allocation(26)),
        PlacementChanged(index=26, job_id=JOB, failure="no node"),
    ],
)
def test_what_is_heard_of_an_allocation_makes_no_job_known_that_was_seen_before_our_own_last_write(
    fleet, time, event
):
    fleet.apply_listing(listing(time, 20, **{JOB: seen(time, 20)}))
    fleet.wrote(JOB, 25)

    fleet.apply(event)

    assert fleet.observation(JOB) is None
    fleet.apply_presence(listing(time, 27, **{JOB: replace(seen(time, 27), job=ABSENT)}), counts_anew=False)
    assert fleet.observation(JOB) is None
    fleet.apply_listing(listing(time, 28, **{JOB: seen(time, 28)}))
    assert fleet.observation(JOB) is not None


def test_an_event_of_a_job_that_comes_after_a_later_one_of_its_allocation_is_taken_in(fleet, time):
    fleet.apply_listing(listing(time, 20, **{JOB: seen(time, 20)}))
    fleet.apply(AllocationChanged(index=26, job_id=JOB, allocation=an_allocation(26)))

    fleet.apply(JobChanged(index=25, job_id=JOB, job=a_job(25, stopped=True)))

    assert fleet.observation(JOB).job.stopped


def test_a_listing_read_before_an_event_does_not_undo_it(fleet, time):
    fleet.apply_listing(listing(time, 20, **{JOB: seen(time, 20, an_allocation(18))}))
    fleet.apply(AllocationChanged(index=30, job_id=JOB, allocation=an_allocation(30, ClientStatus.FAILED)))
    fleet.apply_listing(listing(time, 25, **{JOB: seen(time, 25, an_allocation(18))}))

    assert fleet.observation(JOB).allocations[0].client_status is ClientStatus.FAILED


def test_an_event_that_comes_late_or_twice_changes_nothing(fleet, time):
    fleet.apply_listing(listing(time, 40, **{JOB: seen(time, 40, an_allocation(38, ClientStatus.COMPLETE))}))
    fleet.apply(AllocationChanged(index=35, job_id=JOB, allocation=an_allocation(35)))

    assert fleet.observation(JOB).allocations[0].client_status is ClientStatus.COMPLETE


def test_an_event_that_shows_nothing_new_is_no_news(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100)}))
    news = []
    fleet.on_change = news.append

    fleet.apply(PlacementChanged(index=101, job_id=JOB, failure=None))
    fleet.apply(JobChanged(index=102, job_id=JOB, job=a_job()))

    assert news == []
    assert fleet.observation(JOB).index == 102


def test_an_event_that_shows_nothing_new_is_news_where_our_own_write_had_made_it_unknown(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100)}))
    fleet.wrote(JOB, 101)
    news = []
    fleet.on_change = news.append

    fleet.apply(JobChanged(index=101, job_id=JOB, job=a_job()))

    assert [known.stack.job_id for known in news] == [JOB]


def test_allocations_stand_newest_first_whatever_the_order_of_their_events(fleet, time):
    fleet.apply_listing(listing(time, 10, **{JOB: seen(time, 10)}))
    fleet.apply(AllocationChanged(index=12, job_id=JOB, allocation=an_allocation(12, name="a2")))
    fleet.apply(
        AllocationChanged(index=13, job_id=JOB, allocation=an_allocation(13, ClientStatus.COMPLETE, "a1"))
    )

    assert [each.id for each in fleet.observation(JOB).allocations] == ["a2", "a1"]


def test_a_nomad_set_back_in_time_makes_everything_seen_and_written_before_void(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100)}))
    fleet.wrote(JOB, 100)

    fleet.forget_indexes()
    fleet.apply_listing(listing(time, 50))

    assert fleet.observation(JOB).job is ABSENT


def test_what_a_doubted_listing_lacks_stays_as_it_was_seen(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100)}))

    fleet.apply_presence(listing(time, 110), counts_anew=False)

    assert fleet.observation(JOB).job is not ABSENT


def test_what_a_doubted_listing_shows_is_taken_in(fleet, time):
    fleet.apply_listing(listing(time, 100))

    fleet.apply_presence(listing(time, 110, **{JOB: seen(time, 110)}), counts_anew=False)

    assert fleet.observation(JOB).index == 110


def test_a_doubted_listing_without_jobs_takes_no_job_from_the_allocations_it_shows(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100)}))

    fleet.apply_presence(listing(time, 110, **{JOB: replace(seen(time, 110), job=ABSENT)}), counts_anew=False)

    assert isinstance(fleet.observation(JOB).job, JobSeen)


def test_a_doubted_listing_that_shows_only_allocations_says_nothing_of_a_job_that_was_never_seen(fleet, time):
    fleet.apply_presence(listing(time, 110, **{JOB: replace(seen(time, 110), job=ABSENT)}), counts_anew=False)

    assert fleet.observation(JOB) is None


def test_a_doubted_listing_without_allocations_takes_none_from_the_job_it_shows(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100, an_allocation(100))}))

    fleet.apply_presence(listing(time, 110, **{JOB: seen(time, 110)}), counts_anew=False)

    assert len(fleet.observation(JOB).allocations) == 1


def test_what_a_nomad_that_counts_anew_shows_is_newer_than_any_index_before(fleet, time):
    fleet.apply_listing(listing(time, 100, **{JOB: seen(time, 100)}))
    time.passes(1)
    stopped = replace(seen(time, 50), job=a_job(50, stopped=True))

    fleet.apply_presence(listing(time, 50, **{JOB: stopped}), counts_anew=True)

    assert fleet.latest(JOB).job.stopped


def test_what_was_heard_while_a_nomad_that_counts_anew_was_listed_stays(fleet, time):
    before = listing(time, 50, **{JOB: replace(seen(time, 50), job=a_job(50, stopped=True))})
    time.passes(1)
    fleet.see(JOB, replace(seen(time, 51), job=a_job(51)))

    fleet.apply_presence(before, counts_anew=True)

    assert not fleet.latest(JOB).job.stopped


def test_an_older_row_does_not_replace_a_newer_one(fleet):
    fleet.put(a_stack(seq=5))
    fleet.put(a_stack(seq=3))

    assert fleet.get(USER).stack.change_seq == 5


@pytest.mark.parametrize("is_known", [True, False])
def test_a_row_that_was_read_before_its_removal_was_heard_of_does_not_come_back(fleet, is_known):
    if is_known:
        fleet.put(a_stack(seq=3))
    fleet.apply_changes([StackChange(seq=6, user_id=USER, stack=None)])

    fleet.put(a_stack(seq=5))

    assert fleet.get(USER) is None


def test_a_row_that_was_made_anew_after_a_removal_is_taken_in(fleet):
    fleet.put(a_stack(seq=3))
    fleet.apply_changes([StackChange(seq=6, user_id=USER, stack=None)])

    fleet.put(a_stack(seq=7))

    assert fleet.get(USER).stack.change_seq == 7


def test_a_removal_that_is_older_than_the_row_removes_nothing(fleet):
    fleet.put(a_stack(seq=9))
    fleet.apply_changes([StackChange(seq=4, user_id=USER, stack=None)])

    assert fleet.get(USER) is not None
    fleet.apply_changes([StackChange(seq=10, user_id=USER, stack=None)])
    assert fleet.get(USER) is None


RUN = (AllocationId("a1"), 0)


def a_running_stack(seq: int, restarts: int = 0) -> Stack:
    stack = a_stack(seq)
    runtime = Runtime(
        allocation_id=RUN[0],
        job_version=0,
        node="n",
        image="",
        opencode_version="1.18.34",
        revision="r",
        secret_version=1,
        release=ReleaseId("rel_1"),
        restarts=restarts,
        started_at=None,
        address=Address(host="127.0.0.1", port=1),
        proven_at=stack.created_at,
    )
    return replace(stack, status=replace(stack.status, runtime=runtime))


def test_a_probe_that_tells_nothing_new_is_no_news(fleet):
    fleet.put(a_running_stack(2))
    told = []
    fleet.on_change = told.append
    for liveness in (Liveness.ALIVE, Liveness.ALIVE, Liveness.SILENT, Liveness.ALIVE):
        fleet.probed(USER, RUN, liveness, steady=True)

    assert len(told) == 3
    assert fleet.get(USER).silent_probes == 0


def test_a_probe_of_an_earlier_run_of_the_task_says_nothing_of_this_one(fleet):
    fleet.put(a_running_stack(2, restarts=1))
    fleet.probed(USER, RUN, Liveness.OPEN, steady=True)

    assert fleet.get(USER).liveness is None


def test_silence_towards_requests_does_not_count_against_a_runtime(fleet):
    fleet.put(a_running_stack(2))
    for _ in range(5):
        fleet.probed(USER, RUN, Liveness.SILENT, steady=False)

    assert fleet.get(USER).silent_probes == 0
    assert not fleet.get(USER).has_answered()


def test_what_was_heard_of_one_runtime_is_forgotten_with_it(fleet):
    fleet.put(a_running_stack(2))
    fleet.probed(USER, RUN, Liveness.SILENT, steady=True)
    fleet.put(a_running_stack(3, restarts=1))

    assert fleet.get(USER).silent_probes == 0


def test_a_row_that_was_read_before_its_removal_does_not_come_back(fleet):
    fleet.put(a_stack(seq=5))
    fleet.remove(USER)
    fleet.put(a_stack(seq=5))

    assert fleet.get(USER) is None
    fleet.put(a_stack(seq=6))
    assert fleet.get(USER) is not None


def test_a_job_that_only_an_allocations_event_speaks_of_is_not_taken_for_absent(fleet, time):
    fleet.apply_listing(listing(time, 10))
    fleet.apply(AllocationChanged(index=12, job_id=JOB, allocation=an_allocation(12)))

    assert fleet.observation(JOB) is None


def test_what_vanished_while_nothing_could_be_seen_is_news_for_every_stack(fleet, time):
    told = []
    fleet.on_change = told.append
    fleet.apply_listing(listing(time, 10))

    assert [known.stack.user_id for known in told] == [USER]


def test_a_listing_that_changes_nothing_is_no_news(fleet, time):
    observation = seen(time, 15)
    fleet.apply_listing(listing(time, 20, **{JOB: observation}))
    told = []
    fleet.on_change = told.append
    fleet.apply_listing(listing(time, 21, **{JOB: observation}))

    assert told == []


def test_the_last_word_of_an_allocation_whose_job_was_purged_keeps_nobody_from_seeing_that_it_is_gone(
    fleet, time
):
    fleet.apply_listing(listing(time, 10))
    fleet.apply(AllocationChanged(index=30, job_id=JOB, allocation=an_allocation(30, ClientStatus.COMPLETE)))
    assert fleet.observation(JOB) is None

    time.passes(1)
    fleet.apply_listing(listing(time, 20))

    assert fleet.observation(JOB).job is ABSENT


def test_that_an_agent_has_finished_is_told_once_and_nothing_else_of_what_sessions_do(fleet, time):
    finished, changed = [], []
    fleet.on_idle, fleet.on_change = lambda known: finished.append(time.now), changed.append
    looks = [idle := Activity(busy=False, changed_at=None), idle, Activity(busy=True, changed_at=None)]
    looks += [None, idle, None, idle]
    for seen in looks:
        time.passes(1)
        fleet.saw_activity(USER, seen, time.now)

    assert [(at - datetime(2026, 1, 1, tzinfo=UTC)).seconds for at in finished] == [1, 5, 7]
    assert changed == []


def test_when_a_runtime_was_seen_at_work_is_remembered_whatever_is_seen_since(fleet, time):
    fleet.saw_activity(USER, Activity(busy=True, changed_at=None), at := time.now)
    for seen in (None, Activity(busy=False, changed_at=None)):
        time.passes(1)
        fleet.saw_activity(USER, seen, time.now)

    assert fleet.get(USER).busy_at == at


def test_a_lease_alone_is_taken_in_and_gives_nobody_anything_to_do(fleet, time):
    changed = []
    fleet.on_change = changed.append
    known = fleet.get(USER)
    known.view = object()

    fleet.put(leased := replace(a_stack(2), busy_until=time.now))
    assert (known.stack.busy_until, known.stack.change_seq, known.view) == (time.now, 2, None)
    assert changed == []

    fleet.put(replace(leased, busy_until=None, change_seq=1))
    assert known.stack.busy_until == time.now

    fleet.put(replace(leased, intent=replace(leased.intent, generation=9), busy_until=None, change_seq=3))
    assert changed == [known]
