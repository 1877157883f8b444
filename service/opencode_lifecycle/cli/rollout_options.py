"""The options that describe a rollout, and the body that they ask for."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import click

from opencode_lifecycle.cli.client import CallFailed, Client, JsonObject
from opencode_lifecycle.cli.connection import CommandFailed
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.parameters import DurationType, PairType, UserIdType, choice, mapping
from opencode_lifecycle.cli.release_names import release_id_of
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.migration import AtDeadline
from opencode_lifecycle.model.rollout_specification import Amount

LARGEST_FILE: Final = 64 * 1024
"""What the service reads of a body."""


class AmountType(click.ParamType[str]):
    """So many stacks, such as `10`, or so many of a hundred, such as `10%`."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(Amount.parse(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_OPTIONS: Final = (
    click.option(
        "--release", metavar="RELEASE", help="What they become; without it, what each is wanted to be."
    ),
    click.option("--all-stale", is_flag=True, help="Every stale stack; so it is without any selection, too."),
    click.option(
        "--reason",
        "reasons",
        type=choice(Facet),
        metavar="FACET",
        multiple=True,
        help=f"Those that are stale in this, which is `list --stale FACET`: {', '.join(Facet)}.",
    ),
    click.option(
        "--running", "releases", metavar="RELEASE", multiple=True, help="Those that run this release."
    ),
    click.option("--label", "labels", type=PairType(), multiple=True, help="With these labels."),
    click.option("--group", "groups", metavar="NAME", multiple=True, help="Of these groups."),
    click.option("--user", "users", type=UserIdType(), metavar="USER", multiple=True, help="Of these users."),
    click.option("--rotate-passwords", is_flag=True, help="A new password for each, stale or not."),
    click.option("--recreate", is_flag=True, help="A new allocation for each, stale or not."),
    click.option("--canary", type=AmountType(), help="How many go first; none of them may fail.  [1]"),
    click.option(
        "--wave", "waves", type=AmountType(), multiple=True, help="Each wave; the last repeats.  [10%]"
    ),
    click.option("--max-in-flight", type=click.IntRange(min=1), help="Most that are moved at once.  [10]"),
    click.option("--max-unavailable", type=AmountType(), help="Most that may be without a working runtime."),
    click.option("--soak", type=DurationType(), help="How long each wave is looked at afterwards.  [30s]"),
    click.option("--failure-budget", type=AmountType(), help="More failures than this pause it.  [5%]"),
    click.option("--no-health-gate", is_flag=True, help="Go on though what was moved is not healthy."),
    click.option("--prompt", metavar="TEXT", help="Ask this of some that were moved; it must be answered."),
    click.option("--deadline", type=DurationType(), help="How long an agent at work is waited for.  [1h]"),
    click.option("--at-deadline", type=choice(AtDeadline), help="What becomes of it then.  [skip]"),
    click.option(
        "--file",
        "file",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        metavar="FILE.json",
        help="The body of POST /v1/rollouts, in place of all of these; - is stdin.",
    ),
)
# The defaults in brackets are the service's; a test holds them against it.


def specification_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every field of a specification, and --file. Releases are named as people do."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def body_of(asked: Mapping[str, Any]) -> JsonObject:
    """Return the body that the options ask for: what was not given is left out, so that the service's defaults hold."""
    file: Path | None = asked["file"]
    if file is not None:
        others = [name for name, value in asked.items() if name != "file" and value not in (None, False, ())]
        if others:
            raise click.UsageError("--file is the whole specification; leave the other options out")
        return _read(file)
    gate = _given(
        failure_budget=asked["failure_budget"],
        health=False if asked["no_health_gate"] else None,
        prompt=asked["prompt"],
    )
    return _given(
        release=asked["release"],
        selector=_given(
            all_stale=asked["all_stale"] or None,
            reasons=list(asked["reasons"]),
            releases=list(asked["releases"]),
            labels=mapping("label", asked["labels"], none=False),
            groups=list(asked["groups"]),
            users=list(asked["users"]),
        ),
        strategy=_given(
            canary=asked["canary"],
            waves=list(asked["waves"]),
            max_in_flight=asked["max_in_flight"],
            max_unavailable=asked["max_unavailable"],
            soak=_span(asked["soak"]),
            gate=gate,
            deadline=_span(asked["deadline"]),
            at_deadline=asked["at_deadline"],
        ),
        rotate_passwords=asked["rotate_passwords"] or None,
        recreate=asked["recreate"] or None,
    )


async def as_named(client: Client, body: JsonObject) -> JsonObject:
    """
    Return *body* with the ids of the releases that a person names otherwise.

    A release or user that there is not ends the command: of several, one that is misspelt would be missed by nobody.
    """
    release, selector = body.get("release"), body.get("selector")
    found = dict(body)
    if isinstance(selector, dict) and isinstance(selector.get("users"), list):
        for user in selector["users"]:
            await _check_user(client, str(user))
    if isinstance(release, str):
        found["release"] = await release_id_of(client, release)
    if isinstance(selector, dict) and isinstance(selector.get("releases"), list):
        releases = [await release_id_of(client, str(each)) for each in selector["releases"]]
        found["selector"] = {**selector, "releases": releases}
    return found


async def _check_user(client: Client, user_id: str) -> None:
    try:
        await client.stack(user_id)
    except CallFailed as failure:
        if failure.status != HTTPStatus.NOT_FOUND:
            raise
        raise CommandFailed(
            ExitCode.NOT_FOUND, f"there is no stack of {user_id}", advice="see `opencode-lifecycle list`"
        ) from None


def _given(**fields: Any) -> JsonObject:
    """Return *fields* without those that say nothing."""
    return {name: value for name, value in fields.items() if value is not None and value not in ([], {})}


def _span(seconds: int | None) -> str | None:
    return None if seconds is None else f"{seconds}s"


def _read(file: Path) -> JsonObject:
    try:
        with click.open_file(str(file), encoding="utf-8") as opened:
            text = opened.read(LARGEST_FILE + 1)
        body = json.loads(text)
    except OSError as error:
        raise click.UsageError(f"--file {file}: {error.strerror}") from None
    except ValueError as error:  # what is no UTF-8 as well
        raise click.UsageError(f"--file {file}: it is not JSON in UTF-8 ({error})") from None
    if len(text) > LARGEST_FILE or not isinstance(body, dict):
        raise click.UsageError(f"--file {file}: it must be one JSON object of at most {LARGEST_FILE} bytes")
    return body
