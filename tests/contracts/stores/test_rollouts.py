"""Rollouts: one that is active, one that drives it, and what became of each of its stacks."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from database_examples import ADA, LATER, MUCH_LATER, NOW, RELEASE, an_event, changing, put
from opencode_lifecycle.model.errors import ClaimLost, RolloutActive, RolloutNotFound
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import PlanId, RolloutId, UserId
from opencode_lifecycle.model.migration import AtDeadline, DataPolicy, MigrationClass
from opencode_lifecycle.model.rollout import (
    BusyState,
    Member,
    MemberReason,
    MemberState,
    Placement,
    PlannedStack,
    PromptVerdict,
    Rollout,
    RolloutPlan,
    RolloutReason,
    RolloutState,
    WaveCount,
)
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)
from opencode_lifecycle.model.staleness import Severity, Staleness

SPECIFICATION = RolloutSpecification(
    release=RELEASE,
    selector=Selector(
        reasons=(Facet.IMAGE, Facet.CONFIG),
        releases=(RELEASE,),
        labels={"team": "ü"},
        groups=("team-a",),
        users=(UserId("ada"),),
    ),
    strategy=Strategy(
        canary=Amount(percent=5),
        waves=(Amount(count=3), Amount(percent=50)),
        max_in_flight=7,
        max_unavailable=Amount(percent=20),
        soak=timedelta(seconds=90),
        gate=Gate(failure_budget=Amount(count=2), health=False, prompt="Say hello."),
        deadline=timedelta(minutes=10),
        at_deadline=AtDeadline.HOLD,
    ),
    rotate_passwords=True,
    recreate=True,
)


def a_rollout(number: int = 1, **changes) -> Rollout:
    values = {
        "id": RolloutId(f"ro_{number}"),
        "specification": SPECIFICATION,
        "entered_at": NOW,
        "target_before": RELEASE,
        "waves": 3,
        "created_by": "olga",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Rollout(**{**values, **changes})


def a_member(user: str = "ada", *, rollout: int = 1, **changes) -> Member:
    values = {
        "rollout_id": RolloutId(f"ro_{rollout}"),
        "user_id": UserId(user),
        "stack_created_at": NOW,
        "wave": 1,
        "generation": 4,
        "changed_at": NOW,
    }
    return Member(**{**values, **changes})


def ended(rollout: Rollout) -> Rollout:
    return replace(rollout, state=RolloutState.SUCCEEDED, finished_at=LATER)


async def claim(database, *, now=NOW, lapses_at=LATER):
    claimed = await database.claim_rollout(now=now, lapses_at=lapses_at)
    assert claimed is not None
    return claimed


async def test_a_rollout_comes_back_as_it_was_made(database):
    rollout = a_rollout(
        state=RolloutState.PAUSED,
        reason=RolloutReason.FAILURES,
        message="two failed",
        goes_back=True,
        turned_for=RolloutReason.CANARY_FAILED,
        turned_because="one failed",
        rollback_data=DataPolicy.RESTORE,
        promoted_at=NOW,
        wave=2,
        settled_at=LATER,
        forgiven=3,
        counts={MemberState.MIGRATED: 4},
        version=7,
    )

    await database.create_rollout(rollout, [])

    assert await database.get_rollout(rollout.id) == rollout
    assert await database.active_rollout() == rollout


async def test_a_member_comes_back_as_it_was_made(database):
    member = a_member(
        state=MemberState.FAILED,
        migration_class=MigrationClass.RESTART,
        release_before=RELEASE,
        orders=5,
        goes_back=True,
        first_ordered_at=NOW,
        ordered_at=LATER,
        prompt=PromptVerdict.FAILED,
        reason="never_healthy",
        message="it never answered",
    )

    await database.create_rollout(a_rollout(), [member, a_member("bob")])

    assert await database.rollout_members(RolloutId("ro_1")) == [member, a_member("bob")]


async def test_while_one_is_active_there_is_no_second(database):
    await database.create_rollout(a_rollout(1), [])

    with pytest.raises(RolloutActive) as refused:
        await database.create_rollout(a_rollout(2), [])

    assert refused.value.facts == {"rollout": "ro_1"}
    assert await database.get_rollout(RolloutId("ro_2")) is None


async def test_of_two_that_are_made_at_once_one_is_refused(database):
    made = await asyncio.gather(
        database.create_rollout(a_rollout(1), []),
        database.create_rollout(a_rollout(2), []),
        return_exceptions=True,
    )

    assert sorted(type(each) for each in made if each is not None) == [RolloutActive]


async def test_the_next_may_begin_when_the_last_has_ended(database):
    await database.create_rollout(ended(a_rollout(1)), [])

    await database.create_rollout(a_rollout(2), [])

    page = await database.find_rollouts(after=None, limit=1)
    assert [each.id for each in page.items] == ["ro_2"]
    rest = await database.find_rollouts(after=page.next_cursor, limit=1)
    assert ([each.id for each in rest.items], rest.next_cursor) == (["ro_1"], None)


async def test_members_are_paged_and_filtered_by_state(database):
    moved = a_member("bob", state=MemberState.MIGRATED)
    await database.create_rollout(a_rollout(), [a_member("ada"), moved, a_member("cyd", wave=2)])

    page = await database.find_members(RolloutId("ro_1"), state=None, after=None, limit=2)
    rest = await database.find_members(RolloutId("ro_1"), state=None, after=page.next_cursor, limit=2)
    found = await database.find_members(RolloutId("ro_1"), state=MemberState.MIGRATED, after=None, limit=2)
    one = await database.find_members(
        RolloutId("ro_1"), state=None, user=rest.items[0].user_id, after=None, limit=2
    )

    assert [each.user_id for each in page.items] == ["ada", "bob"]
    assert ([each.user_id for each in rest.items], rest.next_cursor) == (["cyd"], None)
    assert found.items == [moved]
    assert [each.user_id for each in one.items] == ["cyd"]


async def test_members_are_counted_by_wave_and_state(database):
    members = [a_member("a", wave=0), a_member("b"), a_member("c"), a_member("d", state=MemberState.HELD)]
    await database.create_rollout(a_rollout(), members)

    assert await database.count_members(RolloutId("ro_1")) == [
        WaveCount(wave=0, counts={MemberState.WAITING: 1}),
        WaveCount(wave=1, counts={MemberState.WAITING: 2, MemberState.HELD: 1}),
    ]


async def test_whoever_changes_a_rollout_need_not_drive_it(database):
    await database.create_rollout(a_rollout(), [])
    await claim(database)
    event = an_event("", kind="rollout.paused")

    changed = await database.change_rollout(
        RolloutId("ro_1"),
        lambda there: replace(there, state=RolloutState.PAUSED),
        members=[a_member("new")],
        event=event,
    )

    assert (changed.state, changed.version) == (RolloutState.PAUSED, 1)
    assert await database.get_rollout(changed.id) == changed
    assert await database.rollout_members(changed.id) == [a_member("new")]
    assert [each.kind for each in (await database.find_events(user_id=None, after=None, limit=9)).items] == [
        "rollout.paused"
    ]


async def test_a_member_that_is_added_takes_the_place_of_an_earlier_one_of_that_user(database):
    await database.create_rollout(a_rollout(), [a_member("ada"), a_member("bob"), a_member("cyd")])
    ada, bob = a_member("ada", wave=2), a_member("bob", wave=2)

    await database.change_rollout(RolloutId("ro_1"), lambda there: replace(there, waves=2), members=[ada])
    claimed = await claim(database)
    await database.save_rollout(claimed, claimed.rollout, [], lapses_at=MUCH_LATER, added=[bob])

    assert await database.rollout_members(RolloutId("ro_1")) == [ada, bob, a_member("cyd")]


async def test_a_change_that_changes_nothing_is_not_written(database):
    await database.create_rollout(a_rollout(), [])

    changed = await database.change_rollout(RolloutId("ro_1"), lambda there: there, event=an_event())

    assert changed.version == 0
    assert (await database.find_events(user_id=None, after=None, limit=9)).items == []


async def test_what_is_not_there_cannot_be_changed(database):
    with pytest.raises(RolloutNotFound):
        await database.change_rollout(RolloutId("ro_1"), lambda there: there)


async def test_one_that_has_ended_cannot_begin_anew_while_another_is_active(database):
    await database.create_rollout(ended(a_rollout(1)), [])
    await database.create_rollout(a_rollout(2), [])

    with pytest.raises(RolloutActive):
        await database.change_rollout(RolloutId("ro_1"), lambda there: replace(there, finished_at=None))


async def test_only_one_drives_a_rollout(database):
    await database.create_rollout(a_rollout(), [])
    first = await claim(database)

    assert await database.claim_rollout(now=NOW, lapses_at=LATER) is None
    second = await claim(database, now=LATER, lapses_at=MUCH_LATER)

    with pytest.raises(ClaimLost):
        await database.save_rollout(first, first.rollout, [], lapses_at=MUCH_LATER)
    saved = await database.save_rollout(second, replace(second.rollout, wave=1), [], lapses_at=MUCH_LATER)
    assert (saved.rollout.wave, saved.rollout.version) == (1, 1)


async def test_with_no_active_rollout_there_is_nothing_to_drive(database):
    await database.create_rollout(ended(a_rollout()), [])

    assert await database.claim_rollout(now=NOW, lapses_at=LATER) is None


async def test_a_claim_that_is_released_is_anyones(database):
    await database.create_rollout(a_rollout(), [])
    first = await claim(database)

    await database.release_rollout(first)

    assert await database.claim_rollout(now=NOW, lapses_at=LATER) is not None
    await database.release_rollout(first)
    assert await database.claim_rollout(now=NOW, lapses_at=LATER) is None


async def test_what_was_concluded_before_somebody_changed_the_rollout_is_not_saved(database):
    await database.create_rollout(a_rollout(), [a_member()])
    claimed = await claim(database)
    await database.change_rollout(
        RolloutId("ro_1"), lambda there: replace(there, state=RolloutState.PAUSED, entered_at=LATER)
    )

    with pytest.raises(ClaimLost):
        await database.save_rollout(
            claimed, ended(claimed.rollout), [a_member(state=MemberState.ORDERED)], lapses_at=LATER
        )

    left = await database.get_rollout(RolloutId("ro_1"))
    assert left is not None
    assert left.state is RolloutState.PAUSED
    assert await database.rollout_members(RolloutId("ro_1")) == [a_member()]


async def test_whoever_was_overtaken_decides_nothing_more(database):
    await put(database)
    await database.create_rollout(a_rollout(), [a_member()])
    first = await claim(database)
    second = await claim(database, now=LATER, lapses_at=MUCH_LATER)

    with pytest.raises(ClaimLost):
        await database.decide(ADA, changing(), under=first)
    with pytest.raises(ClaimLost):
        await database.use_release(RELEASE, under=first)

    assert (await database.get(ADA)).intent.generation == 1
    await database.decide(ADA, changing(), under=second)
    assert (await database.get(ADA)).intent.generation == 2


async def test_what_was_decided_before_somebody_changed_the_rollout_is_not_done(database):
    await put(database)
    await database.create_rollout(a_rollout(), [a_member()])
    claimed = await claim(database)
    await database.change_rollout(
        RolloutId("ro_1"), lambda there: replace(there, state=RolloutState.PAUSED, entered_at=LATER)
    )

    with pytest.raises(ClaimLost):
        await database.decide(ADA, changing(), under=claimed)
    with pytest.raises(ClaimLost):
        await database.use_release(RELEASE, under=claimed)

    assert (await database.get(ADA)).intent.generation == 1


async def test_a_turn_is_saved_whole(database):
    await database.create_rollout(a_rollout(), [a_member("ada"), a_member("bob")])
    claimed = await claim(database)
    ordered = a_member("ada", state=MemberState.ORDERED, orders=1, ordered_at=LATER)

    saved = await database.save_rollout(
        claimed,
        ended(claimed.rollout),
        [ordered],
        lapses_at=LATER,
        event=an_event("", kind="rollout.succeeded"),
    )

    assert await database.get_rollout(saved.rollout.id) == saved.rollout
    assert await database.active_rollout() is None
    assert await database.rollout_members(saved.rollout.id) == [ordered, a_member("bob")]


async def test_a_plan_comes_back_as_it_was_put_until_it_is_forgotten(database):
    stack = PlannedStack(
        user_id=UserId("ada"),
        generation=4,
        revision="abc",
        release=RELEASE,
        why=(Staleness(facet=Facet.IMAGE, have="a", want="b", severity=Severity.WARNING, restart=True),),
        migration_class=MigrationClass.RESTART,
        busy=BusyState.BUSY,
        placement=Placement.REFUSED,
        wave=2,
        message="no node has room",
    )
    left = replace(
        stack, user_id=UserId("bob"), left_out=MemberReason.PINNED, wave=None, migration_class=None
    )
    plan = RolloutPlan(
        id=PlanId("plan_1"),
        specification=SPECIFICATION,
        target_before=RELEASE,
        waves=2,
        stacks=(stack, left),
        created_by="olga",
        created_at=NOW,
        lapses_at=LATER,
    )
    await database.put_plan(plan)

    assert await database.get_plan(plan.id) == plan
    assert await database.get_plan(PlanId("plan_2")) is None
    assert await database.prune_plans(NOW) == 0
    assert await database.prune_plans(LATER) == 1
    assert await database.get_plan(plan.id) is None


async def test_a_process_that_is_the_only_one_drives_on_at_once_when_it_starts(database):
    await database.create_rollout(a_rollout(), [])
    await claim(database)

    await database.void_claims()

    assert await database.claim_rollout(now=NOW, lapses_at=LATER) is not None
