"""Commands on the whole: staleness, reconcile, orphans, conditions."""

import sys
from collections.abc import Sequence
from typing import Final

import click
from rich.text import Text

from opencode_lifecycle.cli.advice import about_condition
from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.connection import Session, calls_service
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.output import ago, counted, plain, state
from opencode_lifecycle.cli.standing import waiting_for_a_person

_BAR: Final = 30
_REPORT: Final = "report"
"""What the service calls an orphan's action when it does nothing."""


@click.command()
@calls_service("staleness")
async def staleness(session: Session) -> None:
    """How many stacks are not as they should be, by facet. RESTART: putting at least one of them right restarts it."""
    found = await session.client.staleness()
    if session.screen.as_json:
        session.screen.document(found)
        return
    stacks, stale = int(found.get("stacks") or 0), int(found.get("stale") or 0)
    if not stale:
        session.screen.note(f"{counted(stacks, 'stack')}, and none is stale.")
        return
    session.screen.table(
        ["FACET", "STACKS", "SHARE", "SEVERITY", "RESTART"],
        [
            [
                item.get("facet"),
                item.get("stacks"),
                _bar(int(item.get("stacks") or 0), stacks),
                state(item.get("severity")),
                item.get("restart"),
            ]
            for item in found.get("items") or []
        ],
    )
    session.screen.note(
        f"{stale} of {counted(stacks, 'stack')} {'is' if stale == 1 else 'are'} stale; "
        "see which with: opencode-lifecycle list --stale [FACET]"
    )


@click.command()
@click.option(
    "--dry-run", is_flag=True, help="Only tell what would be done. Exit code 1 when there is anything."
)
@calls_service("reconcile")
async def reconcile(session: Session, dry_run: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Compare every stack and every neighbour now, and have put right what is not as it should be."""
    report = await session.client.reconcile(dry_run=dry_run)
    if session.screen.as_json:
        session.screen.document(report)
    else:
        _show_report(session, report)
    ripe = [plan for plan in report.get("orphans") or [] if plan.get("action") != _REPORT]
    if dry_run and (report.get("stacks") or ripe):
        raise click.exceptions.Exit(ExitCode.FAILED)


def _show_report(session: Session, report: JsonObject) -> None:
    screen = session.screen
    stacks, orphans = report.get("stacks") or [], report.get("orphans") or []
    if report.get("conditions"):
        screen.heading("Conditions")
        _show_conditions(session, report["conditions"])
    if stacks:
        screen.heading("Stacks")
        screen.table(
            ["USER", "PHASE", "REASON", "WHAT IS DONE"],
            [
                [
                    plan.get("user_id"),
                    state(plan.get("phase")),
                    plan.get("reason"),
                    ", then ".join(plan["steps"]),
                ]
                for plan in stacks
            ],
        )
    if orphans:
        screen.heading("Orphans")
        screen.table(
            ["ID", "KIND", "NAME", "USER", "ACTION", "WHY"],
            [
                [
                    plan["orphan"].get("id"),
                    plan["orphan"].get("kind"),
                    plan["orphan"].get("job_id"),
                    plan["orphan"].get("user_id"),
                    plan.get("action"),
                    plan.get("message"),
                ]
                for plan in orphans
            ],
            whole={"ID", "NAME"},
        )
    needy = len(stacks)
    ripe = [plan for plan in orphans if plan.get("action") != _REPORT]
    if report.get("dry_run"):
        done = f"{counted(needy, 'stack')} and {counted(len(ripe), 'orphan')} would be put right"
    else:
        done = f"{counted(needy, 'stack')} {_be(needy)} being put right, {counted(len(ripe), 'orphan')} {_be(len(ripe))} seen to"
    unseen = (
        f"; orphans could not be looked for: {report['orphans_unseen']}"
        if report.get("orphans_unseen")
        else ""
    )
    held = "; what rests on absence is held back by a condition" if report.get("frozen") else ""
    screen.note(
        f"{counted(int(report.get('compared') or 0), 'stack')} compared with Nomad at index {report.get('index')}: "
        f"{done}{unseen}{held}."
    )


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


@click.group()
def orphans() -> None:
    """Jobs, secrets, services, volumes and variables that bear our names and have no row. Operators only."""


@orphans.command("list")
@calls_service("orphans list")
async def list_orphans(session: Session) -> None:
    """What was found, how often in a row, whose it is, and what waits for a person. What is not proven is never touched."""
    items = [item async for page in session.client.orphans() for item in page["items"]]
    if session.screen.as_json:
        session.screen.document({"items": items, "next_cursor": None})
        return
    if not items:
        session.screen.note("No orphans: whatever bears our names has its stack.")
        return
    why = waiting_for_a_person(items)
    session.screen.table(
        ["ID", "KIND", "NAME", "USER", "FOUND", "FIRST", "WAITS FOR A PERSON"],
        [
            [
                item.get("id"),
                item.get("kind"),
                item.get("job_id"),
                item.get("user_id"),
                counted(int(item.get("confirmations") or 0), "time"),
                ago(item.get("first_seen_at")),
                why.get(str(item.get("id"))),
            ]
            for item in items
        ],
        whole={"ID", "KIND", "NAME"},
    )
    session.screen.note(
        f"{counted(len(items), 'orphan')} at the last comparison; {len(why)} {'waits' if len(why) == 1 else 'wait'} for a "
        "person, the service sees to the others. Where each is: --json"
    )


@orphans.command()
@click.argument("orphan_id", metavar="ID")
@calls_service("orphans adopt")
async def adopt(session: Session, orphan_id: str) -> None:
    """Make the row that the orphan lacks: a job runs on, and is kept from now on."""
    stack = await session.client.adopt_orphan(orphan_id)
    if session.screen.as_json:
        session.screen.document(stack)
    else:
        session.screen.line(f"{stack.get('user_id')} has its stack again: {stack.get('job_id')}")
        session.screen.note("What else bears its name leaves the list with the next comparison.")


@orphans.command()
@click.argument("orphan_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@calls_service("orphans delete")
async def delete(session: Session, *, orphan_id: str, yes: bool) -> None:
    """Delete the orphan. A job is stopped first; called again it is purged. A volume goes with its data."""
    if not yes:
        _ask_before_deletion(orphan_id)
    answer = await session.client.delete_orphan(orphan_id)
    if session.screen.as_json:
        session.screen.document(answer)
    else:
        session.screen.line(
            f"{orphan_id} is deleted; a job that ran is stopped, and purged when called again."
        )


def _ask_before_deletion(orphan_id: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("orphans delete asks before it acts; where nobody can answer, add --yes")
    click.confirm(
        f"Delete the orphan {orphan_id} for good, a volume with all its data?", abort=True, err=True
    )


@click.group()
def conditions() -> None:
    """What is wrong with the whole, and what it holds back."""


@conditions.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that are cleared, too.")
@calls_service("conditions list")
async def list_conditions(session: Session, everything: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Standing conditions. One that freezes holds back whatever rests on absence."""
    pages = session.client.conditions(standing=not everything)
    items = [item async for page in pages for item in page["items"]]
    if session.screen.as_json:
        session.screen.document({"items": items, "next_cursor": None})
        return
    if not items:
        session.screen.note("Nothing stands in the way.")
        return
    _show_conditions(session, items)
    for item in items:
        if item.get("freezes"):
            session.screen.note(f"{item.get('kind')}: {about_condition(item.get('kind'), item.get('id'))}.")


@conditions.command()
@click.argument("condition_id", metavar="ID")
@calls_service("conditions confirm")
async def confirm(session: Session, condition_id: str) -> None:
    """Say that what is seen is true: what was held back by the condition goes on."""
    condition = await session.client.confirm_condition(condition_id)
    if session.screen.as_json:
        session.screen.document(condition)
    else:
        session.screen.line(f"{condition.get('kind')} is {condition.get('status')}.")
        if condition.get("status") == "cleared":
            session.screen.note("It had passed by itself, so nothing was confirmed.")


def _show_conditions(session: Session, items: Sequence[JsonObject]) -> None:
    session.screen.table(
        ["ID", "KIND", "STATUS", "SINCE", "MESSAGE"],
        [
            [
                item.get("id"),
                item.get("kind"),
                _status(item),
                ago(item.get("since")),
                item.get("message"),
            ]
            for item in items
        ],
        whole={"ID", "KIND"},
    )


def _status(condition: JsonObject) -> Text:
    """Say how it stands, and what it holds back by that."""
    status = state(condition.get("status"))
    if condition.get("freezes"):
        return status.append(", holds work back")
    by = condition.get("confirmed_by")
    if by and condition.get("status") != "confirmed":
        return status.append(f", confirmed by {plain(by)}")
    return status.append(f" by {plain(by)}") if by else status


def _bar(part: int, whole: int) -> str:
    filled = round(_BAR * part / whole) if whole else 0
    return "█" * max(filled, 1 if part else 0) + f" {part / whole:.0%}" if whole else ""
