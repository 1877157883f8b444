"""Commands on releases, pins and groups: what runtimes are to be, and who is held on something else."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from opencode_lifecycle.cli.changes import carry_out, wait_option
from opencode_lifecycle.cli.client import CallFailed, Client, JsonObject
from opencode_lifecycle.cli.connection import CommandFailed, Session, calls_service
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.output import Screen, age, counted
from opencode_lifecycle.cli.parameters import DurationType, PairType, mapping, user_argument
from opencode_lifecycle.cli.release_files import (
    FILE,
    PromptType,
    instructions_of,
    object_of,
    prompts_of,
    text_of,
)
from opencode_lifecycle.cli.release_names import TARGET, release_id_of
from opencode_lifecycle.cli.release_tables import PARTS, show_differences, show_release, show_releases
from opencode_lifecycle.model.identifiers import UserId

CREATED: Final = 201
"""HTTP's word for: there was none of it before."""

_NO_SUCH_CALL: Final = frozenset({"not-found", "method-not-allowed"})

_CONTENT: Final = (
    click.option("--base", metavar="RELEASE", help="What it is made over.  [the fleet's target]"),
    click.option("--image", metavar="IMAGE", help="The image, best by digest."),
    click.option("--opencode-version", metavar="VERSION", help="The version that the server must report."),
    click.option("--template", type=FILE, metavar="FILE", help="The job template, in HCL."),
    click.option(
        "--instructions",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="What every agent is instructed with. Several are joined, each headed by its name.",
    ),
    click.option("--config", type=FILE, metavar="FILE", help="The managed OpenCode configuration, in JSON."),
    click.option(
        "--agent-prompt",
        "agent_prompts",
        type=PromptType(),
        multiple=True,
        metavar="NAME=FILE",
        help="The prompt of an agent; replaces all.",
    ),
    click.option("--no-agent-prompts", is_flag=True, help="Take all prompts away."),
    click.option(
        "--env", "environment", type=PairType(), multiple=True, help="Variables; replaces all. No secrets."
    ),
    click.option("--no-env", is_flag=True, help="Take all variables away."),
    click.option(
        "--resources",
        type=FILE,
        metavar="FILE",
        help='Resource classes, in JSON: {"small": {"cpu": 200, "memory": 512, "memory_max": 2048}}; replaces all.',
    ),
    click.option("--note", metavar="TEXT", help="What is new about it, for people."),
)


def _content_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_CONTENT):
        command = option(command)
    return command


@click.group()
def release() -> None:
    """What runtimes are to be: version, template, prompts, configuration. A release is named by its number, its id or `target`."""


@release.command()
@_content_options
@calls_service("release create")
async def create(session: Session, /, *, base: str | None, **asked: Any) -> None:
    """
    Make a release, after everything of it was checked, and show what differs from its base.

    What is not given is as in the base. No stack is moved by it: that is for `release use`.
    """
    body = _body_of(asked)
    over = await session.client.release(await release_id_of(session.client, base or TARGET))
    answer = await session.client.create_release({**body, "base": over["id"]})
    made = answer.body
    if session.screen.as_json:
        session.screen.document(made)
        return
    if answer.status != CREATED:
        session.screen.line(f"{_name_of(made)} has this content already; nothing was made.")
        return
    session.screen.line(f"{_name_of(made)} is made.")
    show_differences(session.screen, over, made)
    session.screen.gap()
    session.screen.facts(
        [(f"{part} check", said) for part, said in (made.get("checks") or {}).items()],
    )
    session.screen.note(f"Have the fleet use it: opencode-lifecycle release use {made.get('number')}")


def _body_of(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be otherwise than in the base; what is not named is left out."""
    if asked["agent_prompts"] and asked["no_agent_prompts"]:
        raise click.UsageError("--agent-prompt and --no-agent-prompts exclude each other")
    body = {
        "image": asked["image"],
        "opencode_version": asked["opencode_version"],
        "template": _text(asked["template"]),
        "instructions": instructions_of(asked["instructions"]) if asked["instructions"] else None,
        "managed_config": _text(asked["config"]),
        "agent_prompts": prompts_of(asked["agent_prompts"])
        if asked["agent_prompts"] or asked["no_agent_prompts"]
        else None,
        "environment": mapping("env", asked["environment"], none=asked["no_env"]),
        "resource_classes": object_of(asked["resources"]) if asked["resources"] is not None else None,
        "note": asked["note"],
    }
    return {name: value for name, value in body.items() if value is not None}


def _text(file: Path | None) -> str | None:
    return text_of(file) if file is not None else None


@release.command("list")
@calls_service("release list")
async def list_releases(session: Session) -> None:
    """Releases, the newest first. TARGET: what new stacks want, and those that start."""
    items = [item async for page in session.client.releases() for item in page["items"]]
    if session.screen.as_json:
        session.screen.document({"items": items, "next_cursor": None})
        return
    show_releases(session.screen, items)
    session.screen.note(counted(len(items), "release"))


@release.command()
@click.argument("name", metavar="[RELEASE]", default=TARGET)
@click.option("--part", type=click.Choice(list(PARTS)), help="Print this text of it, and nothing else.")
@calls_service("release show")
async def show(session: Session, *, name: str, part: str | None) -> None:
    """Everything that a release is made of; without RELEASE, the fleet's target."""
    found = await session.client.release(await release_id_of(session.client, name))
    if session.screen.as_json:
        session.screen.document(found)
    elif part is not None:
        text = str(found.get(PARTS[part]))
        # Byte for byte for a file or a pipe; a person's prompt begins on a line of its own.
        click.echo(text, nl=sys.stdout.isatty() and not text.endswith("\n"))
    else:
        show_release(session.screen, found)


@release.command()
@click.argument("name", metavar="RELEASE")
@click.option(
    "--no-rollout",
    is_flag=True,
    help="Only make it the fleet's target: new stacks want it, and those that start. Nobody is moved.",
)
@calls_service("release use")
async def use(session: Session, *, name: str, no_rollout: bool) -> None:
    """Bring the fleet to a release, by a rollout at the default pace."""
    release_id = await release_id_of(session.client, name)
    if no_rollout:
        used = await session.client.use_release(release_id)
        if session.screen.as_json:
            session.screen.document(used)
        else:
            session.screen.line(f"{_name_of(used)} is what new stacks want now, and those that start.")
            session.screen.note(
                f"What runs is left as it is; `opencode-lifecycle rollout plan --release {used.get('number')}` tells who that is."
            )
        return
    begun = await _begin_rollout(session.client, release_id)
    if session.screen.as_json:
        session.screen.document(begun)
        return
    session.screen.line(f"The rollout {begun.get('id')} to {release_id} has begun.")
    session.screen.note(
        f"It becomes the fleet's target when the canaries are well. Follow it: "
        f"opencode-lifecycle rollout watch {begun.get('id')}"
    )


async def _begin_rollout(client: Client, release_id: str) -> JsonObject:
    try:
        return await client.start_rollout({"release": release_id})
    except CallFailed as failure:
        if failure.code not in _NO_SUCH_CALL:
            raise
        raise CommandFailed(
            ExitCode.FAILED,
            "release use failed: this service does no rollouts; nothing was changed",
            advice="make it the fleet's target without one: `opencode-lifecycle release use --no-rollout`",
        ) from None


@click.command()
@user_argument
@click.argument("name", metavar="RELEASE")
@wait_option("0s")
@calls_service("pin")
async def pin(session: Session, *, user_id: UserId, name: str, wait: int) -> None:
    """Hold USER's stack on RELEASE, wherever the fleet goes. It is brought there as every stale stack is."""
    release_id = await release_id_of(session.client, name)
    await carry_out(session, "pin", user_id, await session.client.pin(user_id, release_id), wait)


@click.command()
@user_argument
@wait_option("0s")
@calls_service("unpin")
async def unpin(session: Session, user_id: UserId, wait: int) -> None:
    """Let USER's stack want what its group and the fleet want again."""
    await carry_out(session, "unpin", user_id, await session.client.unpin(user_id), wait)


@click.group()
def group() -> None:
    """Groups of stacks, and what is otherwise for one than for the fleet."""


@group.command("show")
@click.argument("name", metavar="GROUP")
@calls_service("group show")
async def show_group(session: Session, name: str) -> None:
    """What release a group is held on, and after how long its idle stacks are stopped."""
    found = await session.client.group(name)
    _tell(session.screen, found)
    if found.get("changed_at") is None and not await _has_stacks(session.client, name):
        session.screen.note(
            f"No stack is in group {name}, and nothing was ever said of it. Is it spelt right?"
        )


@group.command("set")
@click.argument("name", metavar="GROUP")
@click.option("--pin", "pinned_to", metavar="RELEASE", help="What its stacks want that begin or start.")
@click.option("--no-pin", is_flag=True, help="Let them want the fleet's target.")
@click.option("--idle-stop-after", type=DurationType(), help="Stop its stacks that were idle so long.")
@click.option("--no-idle-stop", is_flag=True, help="Stop none of them for being idle.")
@calls_service("group set")
async def set_group(
    session: Session,
    *,
    name: str,
    pinned_to: str | None,
    no_pin: bool,
    idle_stop_after: int | None,
    no_idle_stop: bool,
) -> None:
    """Say what is otherwise for a group. What is not named stays; no running stack is moved by a pin."""
    body: dict[str, Any] = {}
    if (pinned_to is not None and no_pin) or (idle_stop_after is not None and no_idle_stop):
        raise click.UsageError("an option and its --no- twin exclude each other")
    if pinned_to is not None or no_pin:
        body["pin"] = await release_id_of(session.client, pinned_to) if pinned_to is not None else None
    if idle_stop_after is not None or no_idle_stop:
        body["idle_stop_after"] = f"{idle_stop_after}s" if idle_stop_after is not None else None
    if not body:
        raise click.UsageError("say what is to be otherwise: see --help")
    _tell(session.screen, await session.client.put_group(name, body))


async def _has_stacks(client: Client, group: str) -> bool:
    async for page in client.stacks([("group", group)], 1):
        if page["items"]:
            return True
    return False


def _tell(screen: Screen, found: JsonObject) -> None:
    if screen.as_json:
        screen.document(found)
        return
    screen.facts(
        [
            ("group", found.get("group")),
            ("pinned to", found.get("pin")),
            ("idle stop after", found.get("idle_stop_after")),
            ("changed", age(found.get("changed_at"))),
            ("changed by", found.get("changed_by")),
        ]
    )


def _name_of(release: JsonObject) -> str:
    return f"Release {release.get('number')} ({release.get('id')})"
