"""Commands on the whole: staleness, reconcile, orphans, conditions."""

import click

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.connection import Session, calls_service
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.output import age, state
from opencode_lifecycle.cli.stack_tables import show_inline

_BAR = 30


@click.command()
@calls_service("staleness")
async def staleness(session: Session) -> None:
    """How many stacks are not as they should be, by the reason."""
    found = await session.client.staleness()
    if session.screen.as_json:
        session.screen.document(found)
        return
    stacks = int(found.get("stacks") or 0)
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
        f"{found.get('stale')} of {stacks} stacks are stale; see them with: opencode-lifecycle list --stale-in FACET"
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
    ripe = [plan for plan in report.get("orphans") or [] if plan.get("action") != "report"]
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
        )
    more = f", and {report['not_shown']} more" if report.get("not_shown") else ""
    done = "would be put right" if report.get("dry_run") else "are being put right"
    held = "; what rests on absence is held back" if report.get("frozen") else ""
    screen.note(
        f"{report.get('compared')} stacks compared with Nomad at index {report.get('index')}: "
        f"{len(stacks)} {done}{more}{held}"
    )


@click.group()
def orphans() -> None:
    """Jobs, secrets, services, volumes and variables that bear our names and have no row. Operators only."""


@orphans.command("list")
@calls_service("orphans list")
async def list_orphans(session: Session) -> None:
    """What was found, whose it is, and whether that is proven. What is not proven is never touched."""
    items = [item async for page in session.client.orphans() for item in page["items"]]
    if session.screen.as_json:
        session.screen.document({"items": items, "next_cursor": None})
        return
    session.screen.table(
        ["ID", "KIND", "NAME", "USER", "PROVEN", "FOUND", "SINCE", "DETAILS"],
        [
            [
                item.get("id"),
                item.get("kind"),
                item.get("job_id"),
                item.get("user_id"),
                item.get("proven"),
                item.get("confirmations"),
                age(item.get("first_seen_at")),
                show_inline(item.get("details")),
            ]
            for item in items
        ],
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


@orphans.command()
@click.argument("orphan_id", metavar="ID")
@calls_service("orphans delete")
async def delete(session: Session, orphan_id: str) -> None:
    """Delete the orphan. A job is stopped first; called again it is purged. A volume goes with its data."""
    answer = await session.client.delete_orphan(orphan_id)
    if session.screen.as_json:
        session.screen.document(answer)
    else:
        session.screen.line(f"{orphan_id} is deleted, or stopped if it was a job that ran.")


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
    _show_conditions(session, items)
    if not items:
        session.screen.note("Nothing stands in the way.")


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


def _show_conditions(session: Session, items: list[JsonObject]) -> None:
    session.screen.table(
        ["ID", "KIND", "STATUS", "FREEZES", "SINCE", "CONFIRMED BY", "MESSAGE"],
        [
            [
                item.get("id"),
                item.get("kind"),
                state(item.get("status")),
                item.get("freezes"),
                age(item.get("since")),
                item.get("confirmed_by"),
                item.get("message"),
            ]
            for item in items
        ],
    )


def _bar(part: int, whole: int) -> str:
    filled = round(_BAR * part / whole) if whole else 0
    return "█" * max(filled, 1 if part else 0) + f" {part / whole:.0%}" if whole else ""
