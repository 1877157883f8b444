"""
Everything that can go wrong, as one tree with stable codes. Nothing here knows of HTTP.

    LifecycleError                       has `code`, a message for people, and facts for machines
    ├── Refusal                          the caller asked for something that is not done; nothing was changed
    │   ├── InvalidUserId                invalid-user-id
    │   ├── InvalidRequest               invalid-request           malformed JSON, query, cursor, header
    │   ├── InvalidBody                  invalid-body              valid JSON with unknown fields or wrong values
    │   │   └── BundleTooLarge           bundle-too-large          a text that no Nomad variable can hold
    │   ├── StackNotFound                stack-not-found
    │   ├── OperationNotFound            operation-not-found
    │   ├── TokenNotFound                token-not-found
    │   ├── ConditionNotFound            condition-not-found
    │   ├── OrphanNotFound               orphan-not-found
    │   ├── OrphanNotProven              orphan-not-proven         it may be somebody else's
    │   ├── ReleaseNotFound              release-not-found
    │   ├── RolloutActive                rollout-active            what is wanted changes by its waves alone
    │   ├── RolloutNotFound              rollout-not-found
    │   ├── RolloutFinished              rollout-finished          it is not in a state from which that can be done
    │   ├── RollbackImpossible           rollback-impossible       what it would go back to is not there any more
    │   ├── PlanNotFound                 plan-not-found
    │   ├── PlanLapsed                   plan-lapsed               plan anew
    │   ├── NothingToDo                  nothing-to-do             everything is as the rollout would make it
    │   ├── RuntimeNotReady              runtime-not-ready         comes with seconds to wait
    │   ├── NoPublicAddress              no-public-address
    │   ├── StackHeld                    stack-held
    │   ├── StackDraining                stack-draining
    │   ├── PreconditionFailed           precondition-failed
    │   ├── QuotaExceeded                quota-exceeded
    │   ├── RateLimited                  rate-limited
    │   ├── IdempotencyInFlight          idempotency-in-flight
    │   ├── IdempotencyMismatch          idempotency-mismatch
    │   ├── Unauthenticated              unauthenticated
    │   └── Forbidden                    forbidden
    ├── UpstreamError                    a neighbour failed us; `system` names it
    │   ├── UpstreamUnavailable          upstream-unavailable      down, slow, sealed, no leader: try again
    │   │   └── NoCapacity               no-capacity               it is well, and has no room for it now: try again
    │   ├── UpstreamNonsense             upstream-nonsense         an answer that cannot be what it claims: try again
    │   ├── UpstreamDenied               upstream-denied           our token lacks a right: a person must act
    │   └── UpstreamRejected             upstream-rejected         it read the request and says no: do not repeat it
    │       ├── IndexConflict            index-conflict            the job is not at the index we expected
    │       ├── VersionConflict          version-conflict          check-and-set failed: somebody wrote before us
    │       └── SecretMissing            secret-missing            no such secret or version
    ├── DeadlineExceeded                 deadline-exceeded
    ├── ClaimLost                        claim-lost                another worker owns the stack now; drop the result
    ├── Busy                             busy                      a lease holds the runtime; plan anew
    ├── IllegalTransition                illegal-transition        a defect of ours, never an input
    └── InvalidSettings                  invalid-settings          refuse to start
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class LifecycleError(Exception):
    """Base of everything this service raises on purpose."""

    code: ClassVar[str] = "internal"
    default_message: ClassVar[str] = "Something failed."

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message or self.default_message)
        self.message = message or self.default_message
        self.facts: Mapping[str, Any] = facts


class Refusal(LifecycleError):
    """The request is refused and nothing was changed."""


class InvalidUserId(Refusal):
    code = "invalid-user-id"
    default_message = "A user id is 1 to 128 characters: a letter or digit, then letters, digits or any of . _ @ : + | ~ = -"


class InvalidRequest(Refusal):
    code = "invalid-request"
    default_message = "The request cannot be read."


@dataclass(frozen=True, slots=True)
class BodyFault:
    """One thing wrong in a JSON body: an RFC 6901 pointer to it, and what is expected there."""

    pointer: str
    detail: str


class InvalidBody(Refusal):
    code = "invalid-body"
    default_message = "The body is valid JSON, but not what this call takes."

    def __init__(self, faults: Sequence[BodyFault], message: str = "") -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class BundleTooLarge(InvalidBody):
    code = "bundle-too-large"
    default_message = "A text is larger than what can be delivered to a runtime."


class StackNotFound(Refusal):
    code = "stack-not-found"
    default_message = "There is no stack for this user."


class OperationNotFound(Refusal):
    code = "operation-not-found"
    default_message = "There is no operation with this id."


class TokenNotFound(Refusal):
    code = "token-not-found"
    default_message = "There is no token with this id."


class ReleaseNotFound(Refusal):
    code = "release-not-found"
    default_message = "There is no release with this id."


class RolloutActive(Refusal):
    code = "rollout-active"
    default_message = "A rollout is under way; end it first, or wait until it has ended."


class RolloutNotFound(Refusal):
    code = "rollout-not-found"
    default_message = "There is no rollout with this id."


class RolloutFinished(Refusal):
    code = "rollout-finished"
    default_message = "The rollout is not in a state from which that can be done."


class RollbackImpossible(Refusal):
    code = "rollback-impossible"
    default_message = "What the rollback would go back to is not there any more."


class PlanNotFound(Refusal):
    code = "plan-not-found"
    default_message = "There is no plan with this id."


class PlanLapsed(Refusal):
    code = "plan-lapsed"
    default_message = "The plan is too old to be relied on; plan anew."


class NothingToDo(Refusal):
    code = "nothing-to-do"
    default_message = "Every stack that is selected is as the rollout would make it."


class RuntimeNotReady(Refusal):
    """The stack has no proven runtime now; `retry_after` is in seconds."""

    code = "runtime-not-ready"
    default_message = "The runtime has no proven address at the moment."

    def __init__(self, message: str = "", *, retry_after: int, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class NoPublicAddress(Refusal):
    code = "no-public-address"
    default_message = "No ingress is configured, so runtimes have no public address."


class StackHeld(Refusal):
    code = "stack-held"
    default_message = "An operator stopped this stack and holds it; start or recover it first."


class StackDraining(Refusal):
    code = "stack-draining"
    default_message = "The runtime is about to be stopped."

    def __init__(self, message: str = "", *, retry_after: int, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class PreconditionFailed(Refusal):
    code = "precondition-failed"
    default_message = "The stack is not at the generation that If-Match names."


class QuotaExceeded(Refusal):
    code = "quota-exceeded"
    default_message = "A quota is used up."


class RateLimited(Refusal):
    """Too many requests; `retry_after` is in seconds."""

    code = "rate-limited"
    default_message = "Too many requests."

    def __init__(self, message: str = "", *, retry_after: int, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class IdempotencyInFlight(Refusal):
    code = "idempotency-in-flight"
    default_message = "A request with this Idempotency-Key is still being handled."


class IdempotencyMismatch(Refusal):
    code = "idempotency-mismatch"
    default_message = "This Idempotency-Key was used for another request."


class ConditionNotFound(Refusal):
    code = "condition-not-found"
    default_message = "There is no such condition."


class OrphanNotFound(Refusal):
    code = "orphan-not-found"
    default_message = "There is no such orphan; it may have been adopted or deleted meanwhile."


class OrphanNotProven(Refusal):
    code = "orphan-not-proven"
    default_message = (
        "It is not proven to be ours, so it is left alone. Remove it with its own system's tools."
    )


class Unauthenticated(Refusal):
    code = "unauthenticated"
    default_message = "A valid bearer token is needed."


class Forbidden(Refusal):
    code = "forbidden"
    default_message = "The role of this token does not allow this call."


class UpstreamError(LifecycleError):
    """A neighbouring system failed us. `system` is `nomad`, `vault`, `consul`, `opencode` or `database`."""

    code = "upstream-error"

    def __init__(self, system: str, operation: str, detail: str = "", **facts: Any) -> None:
        super().__init__(f"{system}: {operation}: {detail}" if detail else f"{system}: {operation}", **facts)
        self.system = system
        self.operation = operation
        self.detail = detail


class UpstreamUnavailable(UpstreamError):
    code = "upstream-unavailable"


class NoCapacity(UpstreamUnavailable):
    code = "no-capacity"


class UpstreamNonsense(UpstreamError):
    code = "upstream-nonsense"


class UpstreamDenied(UpstreamError):
    code = "upstream-denied"


class UpstreamRejected(UpstreamError):
    code = "upstream-rejected"


class IndexConflict(UpstreamRejected):
    code = "index-conflict"


class VersionConflict(UpstreamRejected):
    code = "version-conflict"


class SecretMissing(UpstreamRejected):
    code = "secret-missing"


class DeadlineExceeded(LifecycleError):
    """A named budget ran out. What it was for is the message; the outcome of the call is unknown."""

    code = "deadline-exceeded"

    def __init__(self, purpose: str) -> None:
        super().__init__(f"{purpose}: no answer in time")
        self.purpose = purpose


class ClaimLost(LifecycleError):
    code = "claim-lost"
    default_message = "Another worker holds this stack now."


class Busy(LifecycleError):
    code = "busy"
    default_message = "A backend is at work with this runtime."


class IllegalTransition(LifecycleError):
    code = "illegal-transition"


class InvalidSettings(LifecycleError):
    code = "invalid-settings"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
