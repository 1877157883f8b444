"""
How the job that is registered differs from another one, read from the diff of Nomad's own plan.

The diff is a tree of objects and fields. What Nomad fills in by itself (indexes, versions, what a submission carries) is
not in it; what an operator may have pasted a secret into is not quoted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM
from opencode_lifecycle.adapters.nomad.reading import mapping
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.stack import FieldEdit
from opencode_lifecycle.ports.orchestrator import Comparison

OPERATION: Final = "compare"
MOST_EDITS: Final = 64
_LONGEST_VALUE: Final = 120
_LONGEST_FIELD: Final = 200
_NONE: Final = "None"
_ADDED: Final = "Added"
_HIDDEN: Final = "(not shown)"
_SHOWN: Final = re.compile(
    r"(?:Priority|NodePool|Datacenters\.Datacenters|UI\.Description|TaskGroup\[[^\]]*\]\.Count"
    r"|Meta\[(?:image|opencode_version|template|environment|resources|secret_version|revision|user|installation"
    r"|managed_by)\]"
    r"|.*\.(?:Driver|User|KillTimeout|KillSignal|ShutdownDelay|CPU|Cores|MemoryMB|MemoryMaxMB|DiskMB)"
    r"|.*\.Config\.?(?:\[)?image(?:\])?|.*\.Service\.(?:Tags\.Tags|PortLabel|Name)|.*\.Constraint\..*)"
)
"""Fields whose values are quoted. Of all others it is only said that they differ: whoever edited a job may have put a
secret into its environment, its templates, its arguments, its headers or its registry's password."""
_IN_PLACE: Final = frozenset(
    {
        "Constraint",
        "Count",
        "Disconnect",
        "KillTimeout",
        "LogConfig",
        "Migrate",
        "Priority",
        "ReschedulePolicy",
        "RestartPolicy",
        "Service",
        "ShutdownDelay",
        "UI",
        "Update",
    }
)
"""What Nomad's scheduler changes without another task."""
_NOT_IN_PLACE: Final = frozenset({"Connect", "Disabled", "RenderTemplates"})
"""Parts of the former that it does not."""
_KEY: Final = re.compile(r"\[[^\]]*\]")
_RESTARTS: Final = ("DestructiveUpdate", "Place", "Stop")


def comparison_of(plan: Any) -> Comparison:
    """
    Read the answer of the plan call.

    The diff goes from what is registered to what was sent, so that `Old` is what we have and `New` what we want.

    That a change restarts is what the scheduler would do now, or what such a change does in general: while the
    allocation of an edit is not placed yet, the scheduler compares with the one before it. The forecast beside single
    fields is not asked, since it exaggerates.
    """
    answer = mapping(OPERATION, plan)
    if answer.get("Diff") is None:
        return Comparison(edits=(), restart=False)
    diff = mapping(OPERATION, answer["Diff"])
    if diff.get("Type") == _ADDED:
        raise UpstreamRejected(SYSTEM, OPERATION, "there is no such job")
    edits = tuple(islice(_edits_in(diff, ""), MOST_EDITS))
    in_place = len(edits) < MOST_EDITS and all(_changes_in_place(edit.field) for edit in edits)
    return Comparison(edits=edits, restart=bool(edits) and (_restarts(answer) or not in_place))


def _changes_in_place(field: str) -> bool:
    """Whether a change of *field* alone leaves the task as it is. Keys in brackets are names of people's choosing."""
    parts = set(_KEY.sub("", field).split("."))
    return not _IN_PLACE.isdisjoint(parts) and _NOT_IN_PLACE.isdisjoint(parts)


def _restarts(answer: Mapping[str, Any]) -> bool:
    annotations = answer.get("Annotations")
    updates = annotations.get("DesiredTGUpdates") if isinstance(annotations, Mapping) else None
    groups = updates.values() if isinstance(updates, Mapping) else ()
    return any(isinstance(group, Mapping) and bool(group.get(name)) for group in groups for name in _RESTARTS)


def _edits_in(source: Mapping[str, Any], path: str) -> Iterator[FieldEdit]:
    if source.get("Type", _NONE) == _NONE:
        return
    for each in _list(source.get("Fields")):
        if each.get("Type", _NONE) != _NONE:
            yield _edit(each, path)
    for each in _list(source.get("Objects")):
        yield from _edits_in(each, _join(path, str(each.get("Name", ""))))
    for each in _list(source.get("TaskGroups")):
        yield from _edits_in(each, _join(path, f"TaskGroup[{each.get('Name', '')}]"))
    for each in _list(source.get("Tasks")):
        yield from _edits_in(each, _join(path, f"Task[{each.get('Name', '')}]"))


def _edit(source: Mapping[str, Any], path: str) -> FieldEdit:
    field = _join(path, str(source.get("Name", "")))
    have, want = str(source.get("Old") or ""), str(source.get("New") or "")
    if _SHOWN.fullmatch(field) is None:
        have, want = have and _HIDDEN, want and _HIDDEN
    return FieldEdit(
        field=_short(field, _LONGEST_FIELD),
        have=_short(have, _LONGEST_VALUE),
        want=_short(want, _LONGEST_VALUE),
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _list(value: Any) -> Sequence[Mapping[str, Any]]:
    if value is None:
        return ()
    return [mapping(OPERATION, each) for each in value] if isinstance(value, list) else ()
