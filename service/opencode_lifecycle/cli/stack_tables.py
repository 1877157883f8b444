"""Stacks, operations and events as tables for people."""

import re
from collections.abc import Iterable, Mapping, Sequence
from shlex import quote
from typing import Any, Final

from rich.text import Text

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.output import Screen, age, ago, counted, state
from opencode_lifecycle.cli.situation import situation_of, what_to_do
from opencode_lifecycle.model.facets import Facet

TASK: Final = "server"
"""The name of the task in every job template of ours."""

_MORE: Final = re.compile(r", and ([0-9]+) more\Z")
_CONSUL_HEADER: Final = """printf 'header = "X-Consul-Token: %s"' "$CONSUL_HTTP_TOKEN\""""
"""Hands the token to curl through a pipe, since arguments stand in process lists; printf is the shell itself."""


def show_stack(screen: Screen, stack: JsonObject) -> None:
    """Write everything the service knows of one stack, and the vendors' own commands that show the same."""
    for sentence in situation_of(stack):
        screen.line(sentence)
    advice = what_to_do(stack)
    if advice:
        screen.facts(("what to do", each) for each in advice)
    screen.heading("Stack")
    screen.facts(_identity(stack))
    screen.heading("State")
    screen.facts(_state(stack))
    screen.heading("Release")
    screen.facts(_release(stack))
    screen.heading("Runtime")
    screen.facts(_runtime(_object(stack, "runtime")))
    screen.heading("Staleness")
    show_staleness(screen, stack)
    screen.heading("The same in Nomad, Consul and Vault")
    for command in vendor_commands(stack):
        screen.line(command)


def show_readiness(screen: Screen, stack: JsonObject) -> None:
    """Write in short how a stack stands, after it was asked to run."""
    runtime = _object(stack, "runtime")
    screen.facts(
        [
            ("user", stack.get("user_id")),
            ("phase", state(stack.get("phase"))),
            ("health", state(stack.get("health"))),
            ("address", _object(runtime, "addresses").get("internal")),
            ("OpenCode", runtime.get("opencode_version")),
            ("allocation", runtime.get("allocation_id")),
            ("stale", _stale_facets(stack)),
        ]
    )


def show_staleness(screen: Screen, stack: JsonObject) -> None:
    """Write facet by facet what runs, what should, and whether the difference needs a restart."""
    reasons = _objects(stack.get("staleness"))
    if not reasons:
        screen.line(Text("current", style="green") if stack.get("runtime") else "-")
        return
    edits = [edit for reason in reasons for edit in _edits(reason)]
    screen.table(
        ["FACET", "HAVE", "WANT", "SEVERITY", "RESTART"],
        [[r.get("facet"), *_have_and_want(r), state(r.get("severity")), r.get("restart")] for r in reasons],
    )
    if edits:
        screen.heading("Edited outside")
        screen.table(["FIELD", "HAVE", "WANT"], edits, whole={"FIELD"})


def show_stacks(screen: Screen, stacks: Sequence[JsonObject]) -> None:
    screen.table(
        [
            "USER",
            "PHASE",
            "HEALTH",
            "MIGRATION",
            "REASON",
            "VERSION",
            "RELEASE",
            "PINNED",
            "STALE",
            "NODE",
            "JOB",
        ],
        [
            [
                stack.get("user_id"),
                state(stack.get("phase")),
                state(stack.get("health")),
                state(stack.get("migration_state")),
                stack.get("reason"),
                _object(stack, "runtime").get("opencode_version"),
                _from_release_to_release(stack),
                "yes" if stack.get("pinned") else None,
                _stale_facets(stack),
                _object(stack, "runtime").get("node"),
                stack.get("job_id"),
            ]
            for stack in stacks
        ],
        whole={"JOB"},
        spare=("JOB", "NODE", "RELEASE", "VERSION"),
    )


def show_operation(screen: Screen, operation: JsonObject) -> None:
    """Write how an operation stands, the phases it went through, and its receipt."""
    screen.facts(
        [
            ("operation", operation.get("id")),
            ("kind", operation.get("kind")),
            ("user", operation.get("user_id")),
            ("state", state(operation.get("state"))),
            ("reason", operation.get("reason")),
            ("message", operation.get("message")),
            ("created", age(operation.get("created_at"))),
            ("finished", age(operation.get("finished_at"))),
        ]
    )
    phases = _objects(operation.get("phases"))
    if phases:
        screen.heading("Phases")
        screen.table(["PHASE", "ENTERED"], [[state(p.get("phase")), p.get("at")] for p in phases])
    show_receipt(screen, operation)


def show_receipt(screen: Screen, operation: JsonObject) -> None:
    receipt = _object(operation, "receipt")
    if receipt:
        screen.heading("Receipt")
        screen.facts((str(name), _inline(value)) for name, value in receipt.items())


def show_events(screen: Screen, events: Iterable[JsonObject]) -> None:
    screen.table(
        ["AT", "USER", "EVENT", "ACTOR", "GENERATION", "DATA"],
        [
            [
                event.get("at"),
                event.get("user_id"),
                event.get("kind"),
                event.get("actor"),
                event.get("generation"),
                _inline(event.get("data")),
            ]
            for event in events
        ],
        whole={"AT"},
    )


def show_events_of_one(screen: Screen, events: Iterable[JsonObject]) -> None:
    """Write what happened to one stack, in few columns: what all events of a stack share is left out."""
    screen.table(
        ["WHEN", "EVENT", "BY", "WHAT"],
        [
            [
                ago(event.get("at")),
                event.get("kind"),
                event.get("actor"),
                _inline(_without_repetition(event.get("data"))),
            ]
            for event in events
        ],
        whole={"WHEN"},
    )


def _without_repetition(data: Any) -> Any:
    """Leave out the id of an order where that of its rollout says the same."""
    if not isinstance(data, Mapping) or not str(data.get("order")).startswith(str(data.get("rollout"))):
        return data
    return {name: value for name, value in data.items() if name != "order"}


def nomad_commands(stack: JsonObject) -> list[str]:
    """Return commands that show how the job of this stack stands and what its runtime says."""
    job, namespace = quote(str(stack.get("job_id"))), quote(str(stack.get("namespace")))
    allocation = _object(stack, "runtime").get("allocation_id")
    logs_of = f"{quote(str(allocation))} {TASK}" if allocation else f"-job {job} {TASK}"
    return [
        f"nomad job status -namespace={namespace} {job}",
        f"nomad alloc logs -namespace={namespace} {logs_of}",
    ]


def vendor_commands(stack: JsonObject) -> list[str]:
    """Return commands that show this stack in Nomad, Consul and Vault. No secret becomes an argument of any."""
    job, namespace = quote(str(stack.get("job_id"))), quote(str(stack.get("namespace")))
    commands = [
        *nomad_commands(stack),
        f"nomad var get -namespace={namespace} nomad/jobs/{job}/opencode/{TASK}",
        f"consul catalog nodes -service={job}",
        f'{_CONSUL_HEADER} | curl -sK - "$CONSUL_HTTP_ADDR/v1/health/service/{job}?passing"',
        f"vault kv metadata get -mount=kv opencode/{job}",
    ]
    address = _object(_object(stack, "runtime"), "addresses").get("internal")
    if address:
        commands.append(f"curl -u opencode {quote(str(address) + '/global/health')}")
    return commands


def _identity(stack: JsonObject) -> list[tuple[str, Any]]:
    return [
        ("user", stack.get("user_id")),
        ("job", stack.get("job_id")),
        ("namespace", stack.get("namespace")),
        ("region", stack.get("region")),
        ("group", stack.get("group")),
        ("resources", stack.get("resources")),
        ("labels", _inline(stack.get("labels"))),
        ("created", age(stack.get("created_at"))),
        ("updated", age(stack.get("updated_at"))),
    ]


def _state(stack: JsonObject) -> list[tuple[str, Any]]:
    generation, observed = stack.get("generation"), stack.get("observed_generation")
    accepted = f"{generation}" if generation == observed else f"{generation} (status speaks for {observed})"
    return [
        ("desired", state(stack.get("desired"))),
        ("phase", state(stack.get("phase"))),
        ("health", state(stack.get("health"))),
        ("migration", state(stack.get("migration_state"))),
        ("reason", stack.get("reason")),
        ("message", stack.get("message")),
        ("generation", accepted),
        ("observed", age(stack.get("observed_at"))),
        ("last operation", stack.get("last_operation")),
    ]


def _from_release_to_release(stack: JsonObject) -> str | None:
    """Return the release that runs, and the one that is wanted where that is another."""
    running, wanted = stack.get("release"), stack.get("wanted_release")
    return running if running == wanted or not running else f"{running} → {wanted}"


def _release(stack: JsonObject) -> list[tuple[str, Any]]:
    return [
        ("wanted", stack.get("wanted_release")),
        ("running", stack.get("release")),
        ("pinned", stack.get("pinned")),
    ]


def _runtime(runtime: JsonObject) -> list[tuple[str, Any]]:
    if not runtime:
        return [("runtime", None)]
    addresses = _object(runtime, "addresses")
    return [
        ("address", addresses.get("internal")),
        ("public address", addresses.get("public")),
        ("allocation", runtime.get("allocation_id")),
        ("job version", runtime.get("job_version")),
        ("node", runtime.get("node")),
        ("image", runtime.get("image")),
        ("OpenCode", runtime.get("opencode_version")),
        ("labels", _inline(runtime.get("labels"))),
        ("revision", runtime.get("revision")),
        ("restarts", runtime.get("restarts")),
        ("started", age(runtime.get("started_at"))),
    ]


def _stale_facets(stack: JsonObject) -> Text | None:
    facets = ", ".join(str(reason.get("facet")) for reason in _objects(stack.get("staleness")))
    return Text(facets, style="yellow") if facets else None


def _have_and_want(reason: JsonObject) -> tuple[Any, Any]:
    fields = _edits(reason)
    if not fields:
        return reason.get("have"), reason.get("want")
    more = _MORE.search(str(reason.get("have")))
    number = len(fields) + (int(more[1]) - 1 if more else 0)
    return f"{counted(number, 'field')} changed", "as registered"


def _edits(reason: JsonObject) -> list[tuple[str, str | None, str | None]]:
    """
    Take an edit from outside apart: its fields one by one, each with what it is and what it should be.

    The service joins them in the same order on both sides. What does not come apart evenly, since a value looks like the
    seam, is left as it came: nothing is returned.
    """
    if reason.get("facet") != Facet.EDITED_OUTSIDE:
        return []
    texts = [str(reason.get(side) or "") for side in ("have", "want")]
    more = _MORE.search(texts[0])
    have, want = (_MORE.sub("", text).split("; ") for text in texts)
    pairs = [(left.partition(" = "), right.partition(" = ")) for left, right in zip(have, want, strict=False)]
    if len(have) != len(want) or any(left[0] != right[0] or not left[1] for left, right in pairs):
        return []
    fields: list[tuple[str, str | None, str | None]] = [(left[0], left[2], right[2]) for left, right in pairs]
    return [*fields, (f"and {more[1]} more, not shown here", None, None)] if more else fields


def _object(of: JsonObject, name: str) -> JsonObject:
    value = of.get(name)
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[JsonObject]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _inline(value: Any) -> Any:
    """Write a JSON value on one line. What is empty is left out, and a change reads from left to right."""
    if isinstance(value, Mapping) and set(value) == {"from", "to"}:
        return f"{_inline(value['from'])} → {_inline(value['to'])}"
    if isinstance(value, Mapping):
        said = {name: item for name, item in value.items() if item is not None and item != ""}
        return ", ".join(f"{name}={_inline(item)}" for name, item in said.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(_inline(item)) for item in value)
    return value
