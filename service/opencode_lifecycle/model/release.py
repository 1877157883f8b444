"""A release: an immutable description of what runtimes should be."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from ulid import ULID

from opencode_lifecycle.model.facets import canonical, digest_of, digest_of_text
from opencode_lifecycle.model.identifiers import ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceClass:
    """What one runtime may use: CPU in MHz shares, memory reserved and at most, both in MiB."""

    cpu: int
    memory: int
    memory_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """
    What runtimes should be. Nothing of it ever changes; another content is another release.

    `instructions` is the text every agent is instructed with, `managed_config` the JSON text of the managed OpenCode
    configuration, `agent_prompts` the prompt of each agent that has one of its own. `template` is the whole HCL text, so
    that an old release can still be rendered after an upgrade. `note` and `created_by` are for people and no content.
    """

    id: ReleaseId
    number: int
    image: str
    opencode_version: str
    template: str
    instructions: str
    managed_config: str
    agent_prompts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str]
    resource_classes: Mapping[str, ResourceClass]
    note: str = ""
    created_by: str = ""
    created_at: datetime

    @property
    def template_digest(self) -> str:
        return digest_of_text(self.template)[:16]

    @property
    def managed(self) -> str:
        """The text that is delivered as managed configuration: prompts of agents are a part of it."""
        return managed_text(self.managed_config, self.agent_prompts)

    @property
    def digests(self) -> Mapping[str, str]:
        """What it is made of besides image and version, by facet, in digests that tell two releases apart."""
        classes = {name: [c.cpu, c.memory, c.memory_max] for name, c in self.resource_classes.items()}
        return {
            "template": self.template_digest,
            "prompt": digest_of_text(self.instructions)[:16],
            "config": digest_of_text(self.managed)[:16],
            "environment": digest_of(dict(self.environment)),
            "resources": digest_of(classes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseInUse:
    """A release, whether it is the fleet's target, and how many stacks want it."""

    release: Release
    is_current: bool
    stacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseWish:
    """What a new release is to be over its *base*, the fleet's target when that is None. None of the rest: as the base."""

    base: ReleaseId | None = None
    image: str | None = None
    opencode_version: str | None = None
    template: str | None = None
    instructions: str | None = None
    managed_config: str | None = None
    agent_prompts: Mapping[str, str] | None = None
    environment: Mapping[str, str] | None = None
    resource_classes: Mapping[str, ResourceClass] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeRelease:
    """
    The release of the content that was asked for, which may have been there before.

    `checks` tells, for what was looked at by others, what they said or why they were not asked.
    """

    entry: ReleaseInUse
    is_new: bool
    checks: Mapping[str, str]


def managed_text(managed_config: str, agent_prompts: Mapping[str, str]) -> str:
    """
    Return *managed_config* with `agent.<name>.prompt` of each prompt, as canonical JSON; without prompts exactly as it is.

    Raises `ValueError` where the text is no JSON object, or what it says of an agent is none.
    """
    if not agent_prompts:
        return managed_config
    return _merged(managed_config, tuple(sorted(agent_prompts.items())))


@lru_cache(maxsize=64)  # every stack of a release asks for the same text
def _merged(managed_config: str, agent_prompts: tuple[tuple[str, str], ...]) -> str:
    document = _object(json.loads(managed_config), "it")
    agents = _object(document.get("agent", {}), "agent")
    prompted = {
        name: {**_object(agents.get(name, {}), f"agent.{name}"), "prompt": text}
        for name, text in agent_prompts
    }
    return canonical({**document, "agent": {**agents, **prompted}})


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")  # noqa: TRY004 - it is about a text, not about our code
    return value


def release_id_of(content: Any) -> ReleaseId:
    """
    Name a release after its *content*, any JSON value, in the shape of all ids.

    The ULID is the first 128 bits of SHA-256 over the canonical form, so it says nothing of a time.
    """
    digest = hashlib.sha256(canonical(content).encode()).digest()
    return ReleaseId(f"rel_{ULID.from_bytes(digest[:16])}")
