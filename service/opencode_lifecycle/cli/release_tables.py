"""Releases as tables for people."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.output import Screen, age, ago

PARTS: Final[Mapping[str, str]] = {
    "instructions": "instructions",
    "template": "template",
    "config": "managed_config",
    "managed": "managed",
}
"""Texts of a release that can be shown whole, by the name that a person gives them."""

_LINES: Final = ("image", "opencode_version")
_TEXTS: Final = ("template", "instructions", "managed_config")
_MAPS: Final = ("agent_prompts", "environment", "resource_classes")
_LONGEST: Final = 60


def show_releases(screen: Screen, releases: Sequence[JsonObject]) -> None:
    screen.table(
        ["NUMBER", "ID", "TARGET", "STACKS", "OPENCODE", "IMAGE", "CREATED", "BY", "NOTE"],
        [
            [
                each.get("number"),
                each.get("id"),
                Text("target", style="green") if each.get("is_current") else None,
                each.get("stacks"),
                each.get("opencode_version"),
                each.get("image"),
                ago(each.get("created_at")),
                each.get("created_by"),
                each.get("note"),
            ]
            for each in releases
        ],
        whole={"NUMBER", "ID"},
        spare=("BY", "CREATED")
        if any(each.get("image") for each in releases)
        else ("IMAGE", "BY", "CREATED"),
    )


def show_release(screen: Screen, release: JsonObject) -> None:
    """Write what a release is made of; texts by their size and digest."""
    screen.facts(
        [
            ("release", release.get("number")),
            ("id", release.get("id")),
            ("target", bool(release.get("is_current"))),
            ("stacks that want it", release.get("stacks")),
            ("image", release.get("image")),
            ("OpenCode", release.get("opencode_version")),
            *((name.replace("_", " "), _weight(release.get(name))) for name in _TEXTS),
            ("note", release.get("note")),
            ("created", age(release.get("created_at"))),
            ("created by", release.get("created_by")),
        ]
    )
    for name in _MAPS:
        members = _members(release, name)
        if members:
            screen.heading(name.replace("_", " ").capitalize())
            screen.facts((member, _said(name, value)) for member, value in members.items())


def show_differences(screen: Screen, base: JsonObject, release: JsonObject) -> None:
    """Write part by part what is otherwise in *release* than in *base*."""
    rows = differences(base, release)
    if rows:
        screen.table(
            ["PART", f"RELEASE {base.get('number')}", f"RELEASE {release.get('number')}"],
            rows,
            whole={"PART"},
        )


def differences(base: JsonObject, release: JsonObject) -> list[tuple[str, Any, Any]]:
    rows: list[tuple[str, Any, Any]] = [
        (name, base.get(name), release.get(name)) for name in _LINES if base.get(name) != release.get(name)
    ]
    rows += [
        (name, _weight(base.get(name)), _weight(release.get(name)))
        for name in _TEXTS
        if base.get(name) != release.get(name)
    ]
    for name in _MAPS:
        before, after = _members(base, name), _members(release, name)
        rows += [
            (f"{name}.{member}", _said(name, before.get(member)), _said(name, after.get(member)))
            for member in sorted({*before, *after})
            if before.get(member) != after.get(member)
        ]
    return rows


def _members(release: JsonObject, name: str) -> Mapping[str, Any]:
    value = release.get(name)
    return value if isinstance(value, Mapping) else {}


def _said(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "agent_prompts":
        return _weight(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{member}={item}" for member, item in value.items())
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _weight(text: Any) -> str | None:
    """Say how long a text is and, in eight digits, which one: enough to see that it is another."""
    if not isinstance(text, str):
        return None
    content = text.encode()
    return f"{len(content)} bytes ({hashlib.sha256(content).hexdigest()[:8]})"
