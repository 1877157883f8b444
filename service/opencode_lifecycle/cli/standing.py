"""What the doctor finds out about the whole: conditions, watches, unwell stacks, and what waits for a person."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from shlex import quote
from typing import Any, Final

from opencode_lifecycle.cli.advice import about_condition, about_problem, about_watch
from opencode_lifecycle.cli.client import Answer, CallFailed, Client, JsonObject
from opencode_lifecycle.cli.output import ago, counted, duration
from opencode_lifecycle.cli.rollout_words import because, counts_text, is_over, standing
from opencode_lifecycle.cli.verdict import NOTHING_TO_DO, Verdict, doubtful, fine, wrong
from opencode_lifecycle.model.orphan import OrphanKind
from opencode_lifecycle.model.rollout import RolloutState
from opencode_lifecycle.model.states import MigrationState, Phase, Reason

_NOT_ALLOWED: Final = frozenset({401, 403})
_NAMED: Final = 5
_MOST_UNWELL: Final = 100
_NEED_A_LOOK: Final = (
    Reason.NO_CAPACITY,
    Reason.SECRET_MISSING,
    Reason.CRASH_LOOP,
    Reason.OUT_OF_MEMORY,
    Reason.DISK_FULL,
    Reason.CONTESTED,
    Reason.NOT_ENDED,
    Reason.NODE_DRAINING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The findings, and what stands behind them: conditions and orphans as the service shows them."""

    verdicts: Sequence[Verdict]
    conditions_found: Sequence[Verdict] = ()
    """Apart, since they are causes of much else."""
    conditions: Sequence[JsonObject] = ()
    watches: Sequence[JsonObject] = ()
    orphans: Sequence[JsonObject] = ()


async def look_at_the_whole(client: Client, readiness: Answer) -> Standing:
    """Find out what the role of the token may see; what it may not is said and is no failure."""
    watches = _objects(readiness.body.get("watches"))
    conditions, of_conditions = await _conditions(client, readiness)
    orphans, of_orphans = await _orphans(client)
    return Standing(
        conditions_found=of_conditions,
        verdicts=[
            *(_look_at_watch(watch) for watch in watches),
            await _unwell_stacks(client),
            await _stuck_migrations(client),
            await _rollout(client),
            of_orphans,
        ],
        conditions=conditions,
        watches=watches,
        orphans=orphans,
    )


def waiting_for_a_person(orphans: Sequence[JsonObject]) -> Mapping[str, str]:
    """
    Return why orphans wait for a person, by their ids; those that the service sees to itself are left out.

    What a job that is proven ours owns is among the latter: the job gets its row back, and that explains it.
    """
    with_job = {
        orphan.get("job_id")
        for orphan in orphans
        if orphan.get("kind") == OrphanKind.JOB and orphan.get("proven")
    }
    why = {
        str(orphan.get("id")): _why_it_waits(orphan)
        for orphan in orphans
        if not orphan.get("proven") or orphan.get("job_id") not in with_job
    }
    return {orphan_id: reason for orphan_id, reason in why.items() if reason}


def _why_it_waits(orphan: JsonObject) -> str:
    if not orphan.get("proven"):
        return "not proven to be ours"
    if orphan.get("kind") == OrphanKind.VOLUME:
        return "it holds data"
    if orphan.get("kind") == OrphanKind.SECRET:
        return "unless its stack was deleted"
    return ""


async def _conditions(client: Client, readiness: Answer) -> tuple[list[JsonObject], list[Verdict]]:
    try:
        found = [item async for page in client.conditions(standing=True) for item in page["items"]]
    except CallFailed as failure:
        return [], [_conditions_unseen(failure, readiness)]
    if not found:
        return [], [fine("conditions", "nothing holds work back")]
    return found, [_look_at_condition(condition) for condition in found]


def _conditions_unseen(failure: CallFailed, readiness: Answer) -> Verdict:
    """Say what readiness says to everybody: which conditions hold work back, though not why."""
    [told, *_] = [
        str(each.get("detail") or "")
        for each in _objects(readiness.body.get("dependencies"))
        if each.get("name") == "conditions"
    ] or ["ok"]
    advice = "look with the token of an operator or auditor"
    if told != "ok":
        return wrong("conditions", "work-held-back", told, advice)
    if failure.status in _NOT_ALLOWED:
        return fine("conditions", "nothing holds work back")
    return doubtful("conditions", failure.code, failure.detail, about_problem(failure.code))


def _look_at_condition(condition: JsonObject) -> Verdict:
    check = f"condition: {condition.get('kind')}"
    detail = f"for {ago(condition.get('since')).removesuffix(' ago')}: {condition.get('message')}"
    if condition.get("freezes"):
        advice = about_condition(condition.get("kind"), condition.get("id"))
        return wrong(check, "condition-standing", detail, advice)
    by = condition.get("confirmed_by")
    return doubtful(
        check, "condition-confirmed", f"{detail} Confirmed by {by}.", f"{NOTHING_TO_DO}: it is being acted on"
    )


def _look_at_watch(watch: JsonObject) -> Verdict:
    name = str(watch.get("name"))
    limit = _span(watch.get("limit_seconds"))
    seen = watch.get("age_seconds")
    detail = (
        f"{_span(seen)} old; at most {limit}"
        if seen is not None
        else f"nothing yet; within {limit} of the start"
    )
    if watch.get("ok"):
        return fine(f"watch: {name}", detail)
    return wrong(f"watch: {name}", "watch-too-old", f"too old: {detail}", about_watch(name))


async def _orphans(client: Client) -> tuple[list[JsonObject], Verdict]:
    try:
        found = [item async for page in client.orphans() for item in page["items"]]
    except CallFailed as failure:
        if failure.status in _NOT_ALLOWED:
            return [], fine("orphans", "not looked at: only an operator may")
        return [], doubtful("orphans", failure.code, failure.detail, about_problem(failure.code))
    why = waiting_for_a_person(found)
    waiting = [orphan for orphan in found if orphan.get("id") in why]
    others = len(found) - len(waiting)
    rest = f"; {counted(others, 'other')} seen to by the service" if others else ""
    if not waiting:
        return [], fine("orphans", f"none waits for a person{rest}")
    kinds = Counter(str(orphan.get("kind")) for orphan in waiting)
    told = ", ".join(counted(count, kind) for kind, count in sorted(kinds.items()))
    return waiting, doubtful(
        "orphans",
        "orphans-wait",
        f"{told} without a stack {'wait' if len(waiting) > 1 else 'waits'} for a person{rest}",
        _about_orphans(waiting),
    )


def _about_orphans(waiting: Sequence[JsonObject]) -> str:
    if any(orphan.get("proven") for orphan in waiting):
        return "see `opencode-lifecycle orphans list`; then `orphans adopt ID` or `orphans delete ID`"
    return "look at them in their own system, and remove there what is nobody's"


async def _unwell_stacks(client: Client) -> Verdict:
    """Name the stacks that need a person, or may: the failed, and those that try for a reason that seldom passes by itself."""
    found: dict[str, JsonObject] = {}
    filters = [("phase", Phase.FAILED.value), *(("reason", reason.value) for reason in _NEED_A_LOOK)]
    try:
        for each in filters:
            async for page in client.stacks([each], _MOST_UNWELL):
                found.update({str(stack.get("user_id")): stack for stack in page["items"]})
    except CallFailed as failure:
        if failure.status in _NOT_ALLOWED:
            return fine("stacks", "not looked at: the role of the token may not list them")
        return doubtful("stacks", failure.code, failure.detail, about_problem(failure.code))
    if not found:
        return fine("stacks", "none needs a look")
    named = ", ".join(f"{user} ({stack.get('reason')})" for user, stack in islice(found.items(), _NAMED))
    more = " and more" if len(found) > _NAMED else ""
    return doubtful(
        "stacks",
        "stacks-unwell",
        f"not as they should be: {named}{more}",
        f"`opencode-lifecycle show {quote(next(iter(found)))}` says what to do",
    )


async def _stuck_migrations(client: Client) -> Verdict:
    """Name the stacks whose change was refused or is held: neither is tried again by itself."""
    found: dict[str, str] = {}
    try:
        for state in (MigrationState.FAILED, MigrationState.HELD):
            async for page in client.stacks([("migration_state", state.value)], _MOST_UNWELL):
                found.update(
                    {
                        str(stack.get("user_id")): state.value
                        for stack in page["items"]
                        if stack.get("reason") != Reason.NODE_DRAINING
                    }
                )
    except CallFailed as failure:
        if failure.status in _NOT_ALLOWED:
            return fine("migrations", "not looked at: the role of the token may not list stacks")
        return doubtful("migrations", failure.code, failure.detail, about_problem(failure.code))
    if not found:
        return fine("migrations", "none waits for a person")
    named = ", ".join(f"{user} ({state})" for user, state in islice(found.items(), _NAMED))
    more = " and more" if len(found) > _NAMED else ""
    return doubtful(
        "migrations",
        "migrations-wait",
        f"refused or held until somebody says otherwise: {named}{more}",
        f"`opencode-lifecycle explain {quote(next(iter(found)))}` says why, and what to do",
    )


async def _rollout(client: Client) -> Verdict:
    """Say how the rollout stands that runs; one that is paused waits for a person."""
    try:
        pages = [page["items"] async for page in client.rollouts(most=_NAMED)]
    except CallFailed as failure:
        if failure.status in {*_NOT_ALLOWED, 404}:
            return fine("rollout", "not looked at: only an operator or auditor may")
        return doubtful("rollout", failure.code, failure.detail, about_problem(failure.code))
    active = next((each for page in pages for each in page if not is_over(each)), None)
    if active is None:
        return fine("rollout", "none runs")
    told = f"{active.get('id')} is {standing(active)}: {counts_text(active.get('counts'))}"
    if active.get("state") != RolloutState.PAUSED:
        return fine("rollout", told)
    why = because(active)
    return doubtful(
        "rollout",
        "rollout-paused",
        f"{told}{f'; {why}' if why else ''}",
        "`opencode-lifecycle rollout show` says whom it concerns; then `rollout resume`, `abort` or `rollback`",
    )


def _span(seconds: Any) -> str:
    return duration(round(seconds)) if isinstance(seconds, int | float) else "-"


def _objects(value: Any) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
