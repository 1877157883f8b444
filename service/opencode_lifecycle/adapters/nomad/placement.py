"""Why the scheduler can place nothing, as one line that a person understands."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, sentence_of
from opencode_lifecycle.adapters.nomad.reading import mapping
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.ports.orchestrator import Placement

PLAN: Final = "plan placement"
_VOLUME: Final = "missing compatible host volumes"
_NO_CLASSES: Final[Mapping[str, int]] = {}


def placement_failure(evaluations: Sequence[Mapping[str, Any]]) -> str | None:
    """
    Return the account of the evaluation that waits for room or failed, or None when the last one placed all there was.

    A blocked evaluation stands for everything the job still lacks; there is at most one, and it ends when it is placed.
    """
    waiting = [each for each in evaluations if each.get("Status") == "blocked"]
    newest = max(waiting or evaluations, key=lambda each: int(each.get("CreateIndex", 0)), default=None)
    if newest is None or newest.get("Status") not in {"blocked", "failed"}:
        return None
    return _account_of(newest) or sentence_of(str(newest.get("StatusDescription") or "the evaluation failed"))


def placement_of(plan: Any) -> Placement:
    """Read the answer of the plan call: what could not be placed stands in it, and nothing of what could."""
    answer = mapping(PLAN, plan)
    if "Annotations" not in answer:
        raise UpstreamNonsense(SYSTEM, PLAN, "the answer is no plan")
    return Placement(failure=_account_of(answer))


def _account_of(source: Mapping[str, Any]) -> str | None:
    groups = source.get("FailedTGAllocs")
    if not isinstance(groups, Mapping) or not groups:
        return None
    return sentence_of("; ".join(_of_group(metric) for metric in groups.values()))


def _of_group(metric: Any) -> str:
    if not isinstance(metric, Mapping):
        return "no node can take it"
    parts = [
        *_filtered(metric),
        *(f"quota used up: {quota}" for quota in metric.get("QuotaExhausted") or ()),
        *(
            f"{_nodes(count)} without enough {dimension}"
            for dimension, count in _counts(metric, "DimensionExhausted").items()
        ),
    ]
    if parts:
        return f"no node can take it: {', '.join(parts)}"
    if not any(_counts(metric, "NodesAvailable").values()):
        pool = metric.get("NodePool") or "default"
        return f"no node is available in node pool {pool} and the datacenters of the job"
    return f"no node can take it: {_nodes(int(metric.get('NodesEvaluated') or 0))} looked at"


def _filtered(metric: Mapping[str, Any]) -> list[str]:
    parts = []
    for constraint, count in _counts(metric, "ConstraintFiltered").items():
        if constraint == _VOLUME:
            parts.append(
                f"{_nodes(count)} without its workspace volume, or where the volume is still claimed"
            )
        else:
            parts.append(f"{_nodes(count)} excluded by {constraint}")
    parts += [
        f"{_nodes(count)} of class {name} excluded"
        for name, count in _counts(metric, "ClassFiltered").items()
    ]
    return parts


def _counts(metric: Mapping[str, Any], name: str) -> Mapping[str, int]:
    found = metric.get(name)
    return found if isinstance(found, Mapping) else _NO_CLASSES


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
