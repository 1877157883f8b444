"""Plans and rollouts as tables for people."""

from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Any, Final

from rich.text import Text

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.output import Screen, age, ago, plain, state
from opencode_lifecycle.cli.rollout_words import (
    IN_ORDER,
    OF_MEMBERS,
    because,
    count_of,
    done_text,
    named,
    standing,
    total_of,
    totals_text,
    wave_name,
    waves_text,
    why_text,
)
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import MemberReason, MemberState, Placement

_INTERRUPTING: Final = frozenset({MigrationClass.RELOAD, MigrationClass.RESTART})
"""Of these it matters whether an agent is at work."""


def show_plan(screen: Screen, plan: JsonObject) -> None:
    """Write what a plan would do with each stack, the totals, and the command that applies it."""
    stacks = plan.get("stacks") or []
    moved = [each for each in stacks if not each.get("left_out")]
    left_out = [each for each in stacks if each.get("left_out")]
    asked = _asked_of_each(plan.get("specification") or {})
    if moved:
        screen.table(
            ["USER", "WHY", "CLASS", "WAVE", "BUSY", "PLACEMENT", "NOTE"],
            [
                [
                    each.get("user_id"),
                    ", ".join(part for part in (why_text(each.get("why")), asked) if part),
                    each.get("class") or "start",
                    wave_name(each.get("wave")),
                    state(each.get("busy")) if each.get("class") in _INTERRUPTING else None,
                    state(each.get("placement")) if _is_placed(each) else None,
                    each.get("message"),
                ]
                for each in sorted(moved, key=_turn)
            ],
            whole={"USER"},
        )
    if left_out:
        screen.heading("Left out")
        screen.table(
            ["USER", "LEFT OUT", "WHY"],
            [
                [
                    each.get("user_id"),
                    each.get("left_out"),
                    each.get("message") or meaning(each.get("left_out")),
                ]
                for each in left_out
            ],
            whole={"USER"},
        )
    screen.gap()
    screen.sentence(totals_text(plan))
    if plan.get("has_changes"):
        screen.facts(_facts_of_plan(plan))
        screen.heading("Apply it with")
        screen.line(f"opencode-lifecycle rollout start --plan {quote(str(plan.get('id')))}")
    else:
        screen.line("Nothing to do.")


def _asked_of_each(specification: JsonObject) -> str:
    """Say what is done with each stack, stale or not."""
    asked = {"rotate_passwords": "a new password", "recreate": "a fresh allocation"}
    return ", ".join(said for name, said in asked.items() if specification.get(name))


def _is_placed(stack: JsonObject) -> bool:
    """Whether another job must be placed, of which alone Nomad is asked."""
    return stack.get("class") == MigrationClass.RESTART or stack.get("placement") != Placement.UNKNOWN


def _turn(stack: JsonObject) -> tuple[int, str]:
    wave = stack.get("wave")
    return (wave if isinstance(wave, int) else 0, str(stack.get("user_id")))


def _facts_of_plan(plan: JsonObject) -> Iterable[tuple[str, Any]]:
    if plan.get("changes_target"):
        specification = plan.get("specification") or {}
        yield "target", f"{plan.get('target_before')} → {specification.get('release')}"
    yield "waves", waves_text(plan)
    yield "plan", plan.get("id")
    yield "good until", age(plan.get("lapses_at"))


def show_rollouts(screen: Screen, rollouts: Sequence[JsonObject]) -> None:
    screen.table(
        ["ID", "STATE", "RELEASE", "DONE", "FAILED", "BY", "BEGUN", "ENDED", "WHY"],
        [
            [
                each.get("id"),
                state(each.get("state")),
                each.get("release"),
                done_text(each.get("counts")),
                count_of(each.get("counts"), MemberState.FAILED),
                each.get("created_by"),
                ago(each.get("created_at")),
                ago(each.get("finished_at")),
                because(each),
            ]
            for each in rollouts
        ],
        whole={"ID", "RELEASE"},
    )


def show_rollout(screen: Screen, rollout: JsonObject, *, waits: Iterable[str] = ()) -> None:
    """Write how a rollout stands, what it waits for, and its waves in numbers."""
    screen.facts(
        [
            ("rollout", rollout.get("id")),
            ("state", standing_text(rollout)),
            ("why", because(rollout)),
            ("release", rollout.get("release")),
            ("target before", rollout.get("target_before")),
            ("is the target since", age(rollout.get("promoted_at"))),
            *(
                (("newer data", "set aside on the way back"),)
                if rollout.get("rollback_data") == "restore"
                else ()
            ),
            ("done", done_text(rollout.get("counts"))),
            ("begun", f"{age(rollout.get('created_at'))} by {rollout.get('created_by')}"),
            ("ended", age(rollout.get("finished_at"))),
            *(("waits for", each) for each in waits),
        ]
    )
    waves = rollout.get("wave_counts") or []
    if waves:
        screen.heading("Waves")
        screen.table(*wave_table(waves, rollout.get("waves")))


def standing_text(rollout: JsonObject) -> Text:
    """Return in which state it is and at which wave, the state coloured by what it means."""
    said, name = plain(standing(rollout)), str(rollout.get("state"))
    text = Text(said)
    text.stylize(state(name).style, 0, len(name))
    return text


def wave_table(waves: Sequence[JsonObject], planned: object) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Return headers and rows of the waves in numbers, of so many that were planned; states of nobody are left out."""
    shown = [each for each in IN_ORDER if any(count_of(wave.get("counts"), each) for wave in waves)]
    headers = ["WAVE", "STACKS", *(named(each).upper() for each in shown)]
    rows = [
        [
            wave_name(wave.get("wave"), planned),
            str(total_of(wave.get("counts"))),
            *(_number(count_of(wave.get("counts"), each), each) for each in shown),
        ]
        for wave in waves
    ]
    return headers, rows


def show_members(screen: Screen, members: Sequence[JsonObject]) -> None:
    screen.table(
        ["USER", "WAVE", "STATE", "CLASS", "SINCE", "UNTIL", "REASON", "MESSAGE"],
        [
            [
                each.get("user_id"),
                wave_name(each.get("wave")),
                state(each.get("state")),
                each.get("class"),
                ago(each.get("changed_at")),
                age(each.get("deadline")) if each.get("state") == MemberState.ORDERED else None,
                each.get("reason"),
                each.get("message") or meaning(each.get("reason")),
            ]
            for each in members
        ],
        whole={"USER"},
    )


def meaning(reason: object) -> str:
    """Return what the reason of a member says, or nothing for one that is not a rollout's."""
    return OF_MEMBERS[MemberReason(str(reason))] if reason in set(MemberReason) else ""


def _number(number: int, what: MemberState) -> Text:
    return Text(str(number), style=state(what.value).style if number else "dim")
