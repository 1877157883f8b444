"""What a stack was asked to be whose row was lost, as far as its job still tells. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from opencode_lifecycle.lifecycle.reconciling.wanted import Site, wanted_facets
from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.identifiers import GROUP_PATTERN
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import Intent, Stack
from opencode_lifecycle.ports.orchestrator import Variables

_GROUP: Final = re.compile(rf"^- group: `({GROUP_PATTERN.strip('^$')})`$", re.MULTILINE)
"""In the description that we give each job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The job of ours that bears the name, None where there is none, and the values that it was submitted with."""

    job: JobSeen | None
    variables: Variables | None

    @property
    def runs(self) -> bool:
        return self.job is not None and not self.job.stopped


def as_it_is(stack: Stack, found: Found, release: Release, site: Site) -> tuple[Intent, list[str]]:
    """
    Return what *stack* must be wanted as for its job to be as wanted, and the names of what nothing tells.

    Digests in the job's meta tell which resource class it has, and whether the environment that it was submitted with is
    the one that it runs in. A runtime that is taken for another than it is would be started afresh for it.
    """
    job = found.job
    if job is None:
        return stack.intent, []
    given = found.variables or {}
    intent = replace(
        stack.intent, labels=_texts(given.get("labels")), group=_group_in(given) or stack.intent.group
    )

    def facets(**changes: object) -> Facets:
        changed = replace(stack, intent=replace(intent, **changes))  # type: ignore[arg-type]  # two names, used below
        return wanted_facets(changed, release, site, secret_version=0)

    unknown = [] if found.variables is not None else ["labels", "group"]
    names = [intent.resources, *sorted(release.resource_classes)]
    fitting = [name for name in names if facets(resources=name).resources == job.meta.get(Facet.RESOURCES)]
    own = {
        name: value
        for name, value in _texts(given.get("environment")).items()
        if release.environment.get(name) != value
    }
    environments = [
        each for each in (own, {}) if facets(environment=each).environment == job.meta.get(Facet.ENVIRONMENT)
    ]
    unknown += [name for name, known in (("resources", fitting), ("environment", environments)) if not known]
    return replace(
        intent,
        resources=fitting[0] if fitting else intent.resources,
        environment=environments[0] if environments else own,
    ), unknown


def _texts(value: object) -> Mapping[str, str]:
    """Return a map of texts, empty where it is anything else: whoever submitted a job may have said anything."""
    if not isinstance(value, Mapping):
        return {}
    return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}


def _group_in(variables: Variables) -> str | None:
    description = variables.get("description")
    match = _GROUP.search(description) if isinstance(description, str) else None
    return match[1] if match is not None else None
