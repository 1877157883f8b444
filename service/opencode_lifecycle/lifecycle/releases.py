"""Releases in memory, what makes one, and the one that is made of the settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Final

import structlog

from opencode_lifecycle.lifecycle.reconciling.wanted import MANDATORY_VARIABLES
from opencode_lifecycle.model.errors import (
    BodyFault,
    InvalidBody,
    InvalidSettings,
    ReleaseNotFound,
    RolloutActive,
)
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.job_template import TemplateNeeds, declared_variables
from opencode_lifecycle.model.release import Release, ResourceClass, managed_text, release_id_of
from opencode_lifecycle.ports.stores import ReleaseStore

log = structlog.get_logger(__name__)

BUNDLE_BYTES: Final = 60_000
"""A Nomad variable holds 64 KiB in all."""


class Releases:
    """Releases by id. They never change, so each is read once."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store
        self.current: Release | None = None
        """The fleet's target: the release that new stacks want."""
        self._known: dict[ReleaseId, tuple[Release, TemplateNeeds]] = {}

    async def get(self, release_id: ReleaseId) -> tuple[Release, TemplateNeeds]:
        """Return the release and what its template asks for; one that is missing is a defect and raises `KeyError`."""
        if release_id not in self._known:
            release = await self._store.get_release(release_id)
            if release is None:
                raise KeyError(release_id)
            self.remember(release)
        return self._known[release_id]

    async def find(self, release_id: ReleaseId) -> Release:
        """Return the release, or raise `ReleaseNotFound`: for an id that somebody names."""
        try:
            return (await self.get(release_id))[0]
        except KeyError:
            raise ReleaseNotFound(release=release_id) from None

    async def refresh(self) -> None:
        """Take in which release is the fleet's target now: where others may change it."""
        current = await self._store.current_release()
        if current is not None and (self.current is None or current.id != self.current.id):
            self.remember(current)
            self.current = current

    def peek(self, release_id: ReleaseId) -> tuple[Release, TemplateNeeds] | None:
        """Return the same if it is in memory."""
        return self._known.get(release_id)

    def check_resources(self, release_id: ReleaseId, resources: str | None) -> None:
        """Raise `InvalidBody` when *resources* is a class that the release, as far as it is in memory, does not have."""
        found = self.peek(release_id)
        if resources is None or found is None or resources in found[0].resource_classes:
            return
        names = ", ".join(sorted(found[0].resource_classes))
        detail = (
            f"release {found[0].number}, on which it is to run, has no such resource class; it has {names}"
        )
        raise InvalidBody([BodyFault("/resources", detail)])

    def remember(self, release: Release) -> None:
        self._known[release.id] = (release, TemplateNeeds.of(release.template))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseContent:
    """Everything that makes a release what it is. Equal content is the same release."""

    image: str
    opencode_version: str
    template: str
    instructions: str
    managed_config: str
    agent_prompts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str]
    resource_classes: Mapping[str, ResourceClass]

    @classmethod
    def of(cls, release: Release) -> "ReleaseContent":
        return cls(
            image=release.image,
            opencode_version=release.opencode_version,
            template=release.template,
            instructions=release.instructions,
            managed_config=release.managed_config,
            agent_prompts=release.agent_prompts,
            environment=release.environment,
            resource_classes=release.resource_classes,
        )

    @property
    def id(self) -> ReleaseId:
        return release_id_of(asdict(self))

    def release(self, *, now: datetime, created_by: str, note: str = "") -> Release:
        """Return the release of this content, before it has a number."""
        return Release(
            id=self.id,
            number=0,
            image=self.image,
            opencode_version=self.opencode_version,
            template=self.template,
            instructions=self.instructions,
            managed_config=self.managed_config,
            agent_prompts=self.agent_prompts,
            environment=self.environment,
            resource_classes=self.resource_classes,
            note=note,
            created_by=created_by,
            created_at=now,
        )

    def faults(self) -> list[BodyFault]:
        """Return what of its texts makes this content unfit to be run, but for their size."""
        faults = []
        missing = sorted(MANDATORY_VARIABLES - declared_variables(self.template))
        if missing:
            faults.append(BodyFault("/template", f"does not declare {', '.join(missing)}"))
        try:
            if not isinstance(json.loads(self.managed_config), dict):
                faults.append(BodyFault("/managed_config", "is not a JSON object"))
        except (ValueError, RecursionError) as error:
            faults.append(BodyFault("/managed_config", f"is not JSON: {error}"))
        if not faults:
            try:
                managed_text(self.managed_config, self.agent_prompts)
            except ValueError as error:
                faults.append(BodyFault("/managed_config", f"cannot take a prompt: {error}"))
        return faults

    def oversizes(self) -> list[BodyFault]:
        """Return which texts are larger than what can be delivered. To be asked only of what has no faults."""
        texts = {"/instructions": self.instructions, "/managed_config": self.managed_config}
        faults = [
            BodyFault(pointer, f"larger than {BUNDLE_BYTES} bytes")
            for pointer, text in texts.items()
            if len(text.encode()) > BUNDLE_BYTES
        ]
        if not faults and len(managed_text(self.managed_config, self.agent_prompts).encode()) > BUNDLE_BYTES:
            detail = f"together with the managed configuration larger than {BUNDLE_BYTES} bytes"
            faults.append(BodyFault("/agent_prompts", detail))
        return faults

    def problems(self) -> list[str]:
        """Return the same of content that stands in the settings, in their words."""
        faults = self.faults()
        return [f"{_OF_SETTINGS[fault.pointer]}: {fault.detail}" for fault in faults or self.oversizes()]


_OF_SETTINGS: Final[Mapping[str, str]] = {
    "/template": "job template",
    "/instructions": "instructions",
    "/managed_config": "managed configuration",
}


async def release_of_settings(content: ReleaseContent, store: ReleaseStore, *, now: datetime) -> Release:
    """
    Store the release that the settings describe, unless it is there, and return the fleet's target.

    That is the settings' release as soon as they describe another one than before, and until another is used: an
    operator's choice outlives a restart. While a rollout is under way the target stays, until a later start.

    Raises `InvalidSettings` for content that cannot run.
    """
    problems = content.problems()
    if problems:
        raise InvalidSettings(problems)
    release = await store.add_release(content.release(now=now, created_by="settings"))
    if await store.settings_release() != release.id:
        try:
            await store.use_release(release.id, of_settings=True)
        except RolloutActive:
            log.warning("the settings' release is not used while a rollout is under way", release=release.id)
    return await store.current_release() or release
