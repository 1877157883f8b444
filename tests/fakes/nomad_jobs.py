"""Jobs as the in-memory Nomad parses and keeps them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.ports.orchestrator import RenderedJob, Variables

META_OF_VARIABLE = {
    "image": "image",
    "opencode_version": "opencode_version",
    "template_digest": "template",
    "environment_digest": "environment",
    "resources_digest": "resources",
    "secret_version": "secret_version",
    "revision": "revision",
    "user_id": "user",
    "installation": "installation",
}
"""Which variable of the job templates ends up under which key of the job's meta."""
_LEAST_MEMORY = 10


@dataclass(slots=True)
class KeptJob:
    seen: JobSeen
    specification: Mapping[str, Any]
    submissions: list[Mapping[str, Any]] = field(default_factory=list)


def render(template: str, variables: Variables) -> RenderedJob:
    """Make the job that Nomad would, as far as the fake looks at one."""
    job_id = str(variables.get("job_id", ""))
    if re.fullmatch(r"[a-z0-9-]{1,63}", job_id) is None:
        raise UpstreamRejected("nomad", "render", "Invalid value for variable job_id")
    meta = {key: str(variables[name]) for name, key in META_OF_VARIABLE.items() if name in variables}
    specification = {
        "ID": job_id,
        "Meta": {**meta, "managed_by": "opencode-lifecycle"},
        "Variables": dict(variables),
        "Template": template,
    }
    return RenderedJob(job_id=JobId(job_id), specification=specification)


def check(job: RenderedJob, operation: str) -> None:
    """Refuse what Nomad would: of all that it looks at, the memory of a task."""
    memory = job.specification["Variables"].get("memory", _LEAST_MEMORY)
    if isinstance(memory, int) and memory < _LEAST_MEMORY:
        raise UpstreamRejected("nomad", operation, f"minimum MemoryMB value is {_LEAST_MEMORY}; got {memory}")
