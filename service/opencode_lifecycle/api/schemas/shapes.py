"""What all shapes share: bodies that come in are strict and closed, those that go out are made from the domain."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.parameters import LABEL_NAME, LONGEST_LABEL
from opencode_lifecycle.model.view import Page

Item = TypeVar("Item", bound=BaseModel)
Source = TypeVar("Source")


class Incoming(BaseModel):
    """A body that is sent to us: no unknown field, no coercion."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class NothingBody(Incoming):
    """A call that takes no content: no body at all, or `{}`."""


class Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True)

    def json_bytes(self) -> bytes:
        return self.model_dump_json().encode()


class Mirror(Outgoing):
    """A shape whose every field is an attribute of the domain object that it shows. What is no field is not shown."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    @classmethod
    def from_domain(cls, source: object) -> Self:
        return cls.model_validate(source)


class ListShape(Outgoing, Generic[Item]):
    items: Sequence[Item]
    next_cursor: str | None

    @classmethod
    def from_domain(
        cls, page: Page[Source], shape: Callable[[Source], Item], seal: Callable[[str], str]
    ) -> Self:
        cursor = page.next_cursor
        return cls(
            items=[shape(item) for item in page.items],
            next_cursor=seal(cursor) if cursor is not None else None,
        )


def inert(text: str) -> str:
    """Refuse what Nomad or consul-template would interpolate, and what they cannot carry."""
    if "${" in text or "{{" in text:
        raise PydanticCustomError("interpolation", "must not contain ${ or {{")
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain NUL")
    return text


def printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("printable", "must be printable characters")
    return text


def no_default(schema: dict[str, Any]) -> None:
    """Leave the default out of the description: an absent field means unchanged, not this value."""
    schema.pop("default", None)


LabelName = Annotated[str, Field(pattern=f"^{LABEL_NAME}$")]
LabelValue = Annotated[str, Field(max_length=LONGEST_LABEL), AfterValidator(printable), AfterValidator(inert)]
