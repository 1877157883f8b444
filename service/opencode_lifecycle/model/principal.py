"""Who is asking, and what a role may do."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from opencode_lifecycle.model.identifiers import TokenId, UserId


class Role(StrEnum):
    BACKEND = "backend"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The holder of a token. `subject` is set for the role `user` alone and names the one stack it may touch."""

    token_id: TokenId
    name: str
    role: Role
    subject: UserId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceToken:
    """A token as it is recorded. The secret itself is shown once and never stored; `secret_hash` is its SHA-256."""

    id: TokenId
    name: str
    role: Role
    subject: UserId | None
    secret_hash: str
    created_at: datetime
    created_by: str
    revoked_at: datetime | None = None

    def principal(self) -> Principal:
        return Principal(token_id=self.id, name=self.name, role=self.role, subject=self.subject)
