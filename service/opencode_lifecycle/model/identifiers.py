"""
Who and what things are called.

Every name that leaves this service is derived here from the installation and the user id, so that the same stack bears
the same name in Nomad, Consul and Vault, and so that a crash can be replayed without a second name appearing.
"""

import base64
import hashlib
import re
from typing import Final, NewType

from ulid import ULID

from opencode_lifecycle.model.errors import InvalidUserId

UserId = NewType("UserId", str)
JobId = NewType("JobId", str)
OperationId = NewType("OperationId", str)
EventId = NewType("EventId", str)
ReleaseId = NewType("ReleaseId", str)
TokenId = NewType("TokenId", str)
AllocationId = NewType("AllocationId", str)
VolumeId = NewType("VolumeId", str)
ConditionId = NewType("ConditionId", str)
OrphanId = NewType("OrphanId", str)
RolloutId = NewType("RolloutId", str)
PlanId = NewType("PlanId", str)

USER_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@:+|~=-]{0,127}$"
INSTALLATION_PATTERN: Final = r"^[a-z0-9]{1,12}$"
GROUP_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"

_USER_ID = re.compile(USER_ID_PATTERN.removesuffix("$") + r"\Z")
_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")
_SLUG_LENGTH = 39
_HASH_LENGTH = 20


def parse_user_id(text: str) -> UserId:
    """Accept *text* exactly as it is, or raise `InvalidUserId`. Nothing is trimmed, folded or normalised."""
    if _USER_ID.match(text) is None:
        raise InvalidUserId
    return UserId(text)


def job_id_of(installation: str, user_id: UserId) -> JobId:
    """
    Name the stack of *user_id*: readable, stable, at most 63 characters of `[a-z0-9-]`.

    The hash is taken over installation, NUL and user id. Neither may contain NUL, so no two pairs share an input, and
    ids that prefix one another or differ only in case get unrelated names.
    """
    digest = hashlib.sha256(f"{installation}\0{user_id}".encode()).digest()
    suffix = base64.b32encode(digest).decode().lower()[:_HASH_LENGTH]
    slug = _NOT_IN_SLUG.sub("-", user_id.lower())[:_SLUG_LENGTH].strip("-")
    return JobId(f"oc-{slug}-{suffix}" if slug else f"oc-{suffix}")


def new_operation_id() -> OperationId:
    return OperationId(f"op_{ULID()}")


def new_event_id() -> EventId:
    return EventId(f"evt_{ULID()}")


def new_token_id() -> TokenId:
    return TokenId(f"tok_{ULID()}")


def new_condition_id() -> ConditionId:
    return ConditionId(f"cond_{ULID()}")


def new_rollout_id() -> RolloutId:
    return RolloutId(f"ro_{ULID()}")


def new_plan_id() -> PlanId:
    return PlanId(f"plan_{ULID()}")
