"""Service tokens."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.schemas.shapes import Incoming, Mirror
from opencode_lifecycle.model.identifiers import USER_ID_PATTERN, UserId
from opencode_lifecycle.model.principal import Role, ServiceToken


class TokenBody(Incoming):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["backend-1"])]
    role: Annotated[Role, Field(strict=False)]
    subject: Annotated[str, Field(pattern=USER_ID_PATTERN)] | None = None

    @model_validator(mode="after")
    def _subject_belongs_to_users(self) -> Self:
        if (self.role is Role.USER) != (self.subject is not None):
            raise PydanticCustomError(
                "subject", "a subject is needed for the role user, and for no other", {"pointer": "/subject"}
            )
        return self

    def subject_id(self) -> UserId | None:
        return UserId(self.subject) if self.subject is not None else None


class TokenShape(Mirror):
    id: str
    name: str
    role: Role
    subject: str | None
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class IssuedTokenShape(TokenShape):
    """A token with its secret, which is shown this once; null when a request is repeated with its Idempotency-Key."""

    secret: str | None = Field(repr=False)

    @classmethod
    def issued(cls, token: ServiceToken, secret: str | None) -> Self:
        return cls(**TokenShape.from_domain(token).model_dump(), secret=secret)
