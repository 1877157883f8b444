"""Releases in memory, and the first one, which is made of the settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from opencode_lifecycle.lifecycle.reconciling.wanted import MANDATORY_VARIABLES
from opencode_lifecycle.model.errors import BodyFault, InvalidBody, InvalidSettings
from opencode_lifecycle.model.facets import digest_of
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.job_template import TemplateNeeds, declared_variables
from opencode_lifecycle.model.release import Release, ResourceClass
from opencode_lifecycle.ports.stores import ReleaseStore


class Releases:
    """Releases by id. They never change, so each is read once."""

    def __init__(self, store: ReleaseStore) -> None:
        self._store = store
        self.current: Release | None = None
        """The release that new stacks want."""
        self._known: dict[ReleaseId, tuple[Release, TemplateNeeds]] = {}

    async def get(self, release_id: ReleaseId) -> tuple[Release, TemplateNeeds]:
        """Return the release and what its template asks for; one that is missing is a defect and raises `KeyError`."""
        if release_id not in self._known:
            release = await self._store.get_release(release_id)
            if release is None:
                raise KeyError(release_id)
            self.remember(release)
        return self._known[release_id]

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
    environment: Mapping[str, str]
    resource_classes: Mapping[str, ResourceClass]

    @property
    def id(self) -> ReleaseId:
        classes = {name: [c.cpu, c.memory, c.memory_max] for name, c in self.resource_classes.items()}
        content = [
            self.image,
            self.opencode_version,
            self.template,
            self.instructions,
            self.managed_config,
            dict(self.environment),
            classes,
        ]
        return ReleaseId(f"rel_{digest_of(content)}")

    def problems(self) -> list[str]:
        """Return what makes this content unfit to be run."""
        problems = []
        missing = sorted(MANDATORY_VARIABLES - declared_variables(self.template))
        if missing:
            problems.append(f"job template: does not declare {', '.join(missing)}")
        try:
            if not isinstance(json.loads(self.managed_config), dict):
                problems.append("managed configuration: is not a JSON object")
        except ValueError as error:
            problems.append(f"managed configuration: is not JSON: {error}")
        for name, text in (
            ("instructions", self.instructions),
            ("managed configuration", self.managed_config),
        ):
            if len(text.encode()) > BUNDLE_BYTES:
                problems.append(f"{name}: larger than {BUNDLE_BYTES} bytes")
        return problems


BUNDLE_BYTES = 60_000
"""A Nomad variable holds 64 KiB in all."""


async def release_of_settings(content: ReleaseContent, store: ReleaseStore, *, now: datetime) -> Release:
    """
    Store the release that the settings describe, unless it is there, and make it the one that new stacks want.

    Raises `InvalidSettings` for content that cannot run.
    """
    problems = content.problems()
    if problems:
        raise InvalidSettings(problems)
    release = await store.add_release(
        Release(
            id=content.id,
            number=0,
            image=content.image,
            opencode_version=content.opencode_version,
            template=content.template,
            instructions=content.instructions,
            managed_config=content.managed_config,
            environment=content.environment,
            resource_classes=content.resource_classes,
            created_at=now,
        )
    )
    await store.use_release(release.id)
    return release
