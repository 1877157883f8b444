"""A release: an immutable description of what runtimes should be."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from opencode_lifecycle.model.facets import digest_of_text
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
    configuration. `template` is the whole HCL text, so that an old release can still be rendered after an upgrade.
    """

    id: ReleaseId
    number: int
    image: str
    opencode_version: str
    template: str
    instructions: str
    managed_config: str
    environment: Mapping[str, str]
    resource_classes: Mapping[str, ResourceClass]
    created_at: datetime

    @property
    def template_digest(self) -> str:
        return digest_of_text(self.template)[:16]
