"""Releases: what a new one is to be, and how they are shown."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, PositiveInt, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.schemas.shapes import Incoming, Mirror, Outgoing, inert, no_default, printable
from opencode_lifecycle.api.schemas.stacks import MAX_VARIABLES, VariableName, VariableValue
from opencode_lifecycle.model.facets import canonical
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.release import MadeRelease, ReleaseInUse, ReleaseWish, ResourceClass

RELEASE_BODY_BYTES: Final = 1024 * 1024
"""Of the body that describes a release: two texts of the largest size, a template, and what JSON makes of them."""
RELEASE_ID_PATTERN: Final = r"^rel_[A-Za-z0-9_-]{1,64}$"
MAX_CLASSES: Final = 16
MAX_PROMPTS: Final = 64
MAX_TEXT: Final = 256 * 1024
MAX_NOTE: Final = 1000


def _storable(text: str) -> str:
    """Refuse what no database or file of ours can hold."""
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain NUL")
    return text


def _object_or_text(value: Any) -> Any:
    """Accept a JSON object, or a text that is to be one."""
    if not isinstance(value, dict | str):
        raise PydanticCustomError("object_or_text", "must be a JSON object, or one written as text")
    return _storable(value) if isinstance(value, str) else value


Text = Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra=no_default), AfterValidator(_storable)]
ManagedConfig = Annotated[
    Any, AfterValidator(_object_or_text), WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]})
]
AgentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")]
ClassName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class ResourceClassBody(Incoming):
    """CPU in MHz shares; memory reserved and at most, in MiB."""

    cpu: Annotated[PositiveInt, Field(le=1_000_000)]
    memory: Annotated[PositiveInt, Field(le=16_777_216)]
    memory_max: Annotated[PositiveInt, Field(le=16_777_216)]

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.memory_max < self.memory:
            raise PydanticCustomError("room", "memory_max is below memory")
        return self


class ReleaseBody(Incoming):
    """
    What a release is to be over its `base`, by default the fleet's target. A field that is absent is as in the base; a map
    or a text that is given takes the place of the whole one. The note belongs to this release alone.
    """

    base: Annotated[str, Field(pattern=RELEASE_ID_PATTERN, json_schema_extra=no_default)] = ""
    image: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9._/:@-]*$", max_length=512, json_schema_extra=no_default),
    ] = ""
    opencode_version: Annotated[
        str, Field(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$", json_schema_extra=no_default)
    ] = ""
    template: Text = ""
    instructions: Text = ""
    managed_config: Annotated[ManagedConfig, Field(json_schema_extra=no_default)] = ""
    agent_prompts: Annotated[
        dict[AgentName, Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_storable)]],
        Field(max_length=MAX_PROMPTS, json_schema_extra=no_default),
    ] = Field(default_factory=dict)
    environment: Annotated[
        dict[VariableName, VariableValue], Field(max_length=MAX_VARIABLES, json_schema_extra=no_default)
    ] = Field(default_factory=dict)
    resource_classes: Annotated[
        dict[ClassName, ResourceClassBody],
        Field(min_length=1, max_length=MAX_CLASSES, json_schema_extra=no_default),
    ] = Field(default_factory=dict)
    note: Annotated[str, Field(max_length=MAX_NOTE), AfterValidator(printable), AfterValidator(inert)] = ""

    def to_domain(self) -> ReleaseWish:
        given = self.model_fields_set
        managed = self.managed_config
        text = managed if isinstance(managed, str) else canonical(managed)
        classes = {
            name: ResourceClass(cpu=each.cpu, memory=each.memory, memory_max=each.memory_max)
            for name, each in self.resource_classes.items()
        }
        return ReleaseWish(
            base=ReleaseId(self.base) if "base" in given else None,
            image=self.image if "image" in given else None,
            opencode_version=self.opencode_version if "opencode_version" in given else None,
            template=self.template if "template" in given else None,
            instructions=self.instructions if "instructions" in given else None,
            managed_config=text if "managed_config" in given else None,
            agent_prompts=self.agent_prompts if "agent_prompts" in given else None,
            environment=self.environment if "environment" in given else None,
            resource_classes=classes if "resource_classes" in given else None,
            note=self.note,
        )


class PinBody(Incoming):
    """The release that the stack is held on."""

    release: Annotated[str, Field(pattern=RELEASE_ID_PATTERN)]

    def to_domain(self) -> ReleaseId:
        return ReleaseId(self.release)


class ReleaseShape(Outgoing):
    """A release in short. `digests` tell its larger parts apart, by facet; `stacks` is how many want it."""

    id: str
    number: int
    image: str
    opencode_version: str
    digests: Mapping[str, str]
    note: str
    created_by: str
    created_at: datetime
    is_current: bool
    stacks: int

    @classmethod
    def from_domain(cls, entry: ReleaseInUse) -> Self:
        return cls(**_in_short(entry))


class ResourceClassShape(Mirror):
    cpu: int
    memory: int
    memory_max: int


class WholeReleaseShape(ReleaseShape):
    """A release with everything it is made of. `managed` is what runtimes get: the configuration with the prompts in it."""

    template: str
    instructions: str
    managed_config: str
    agent_prompts: Mapping[str, str]
    managed: str
    environment: Mapping[str, str]
    resource_classes: Mapping[str, ResourceClassShape]

    @classmethod
    def from_domain(cls, entry: ReleaseInUse) -> Self:
        return cls(**_whole(entry))


class MadeReleaseShape(WholeReleaseShape):
    """`checks` tells, by part, what was said to it or why nobody was asked; empty for a release that was there before."""

    checks: Mapping[str, str]

    @classmethod
    def made(cls, made: MadeRelease) -> Self:
        return cls(**_whole(made.entry), checks=made.checks)


def _in_short(entry: ReleaseInUse) -> dict[str, Any]:
    release = entry.release
    return {
        "id": release.id,
        "number": release.number,
        "image": release.image,
        "opencode_version": release.opencode_version,
        "digests": release.digests,
        "note": release.note,
        "created_by": release.created_by,
        "created_at": release.created_at,
        "is_current": entry.is_current,
        "stacks": entry.stacks,
    }


def _whole(entry: ReleaseInUse) -> dict[str, Any]:
    release = entry.release
    return {
        **_in_short(entry),
        "template": release.template,
        "instructions": release.instructions,
        "managed_config": release.managed_config,
        "agent_prompts": release.agent_prompts,
        "managed": release.managed,
        "environment": release.environment,
        "resource_classes": {
            name: ResourceClassShape.from_domain(each) for name, each in release.resource_classes.items()
        },
    }
