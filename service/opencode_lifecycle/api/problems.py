"""
Errors as RFC 9457 problems: one table from what went wrong to what is answered, and one function that renders it.

A problem tells the caller what to do next and nothing of what is inside. `code` is the stable part.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from opencode_lifecycle.api.schemas import FaultShape, ProblemShape
from opencode_lifecycle.model import errors
from opencode_lifecycle.model.errors import LifecycleError, Refusal, UpstreamError

PROBLEM_TYPE: Final = "application/problem+json"
DOCUMENTATION: Final = "/docs#problem-"
CHALLENGE: Final = 'Bearer realm="opencode-lifecycle"'


@dataclass(frozen=True, slots=True)
class Answer:
    """How one kind of error is answered. `retry` bounds the seconds after which trying again makes sense."""

    status: int
    title: str
    retry: tuple[int, int] | None = None


ERRORS: Final[Mapping[type[LifecycleError], Answer]] = {
    errors.InvalidUserId: Answer(400, "Invalid user id"),
    errors.InvalidRequest: Answer(400, "Invalid request"),
    errors.InvalidBody: Answer(422, "Invalid body"),
    errors.StackNotFound: Answer(404, "Stack not found"),
    errors.OperationNotFound: Answer(404, "Operation not found"),
    errors.ConditionNotFound: Answer(404, "Condition not found"),
    errors.OrphanNotFound: Answer(404, "Orphan not found"),
    errors.OrphanNotProven: Answer(409, "Orphan not proven ours"),
    errors.TokenNotFound: Answer(404, "Token not found"),
    errors.ReleaseNotFound: Answer(404, "Release not found"),
    errors.BundleTooLarge: Answer(422, "Text too large"),
    errors.RolloutActive: Answer(409, "A rollout is active"),
    errors.RolloutNotFound: Answer(404, "Rollout not found"),
    errors.RolloutFinished: Answer(409, "Rollout in another state"),
    errors.RollbackImpossible: Answer(409, "Rollback impossible"),
    errors.PlanNotFound: Answer(404, "Plan not found"),
    errors.PlanLapsed: Answer(409, "Plan lapsed"),
    errors.NothingToDo: Answer(409, "Nothing to do"),
    errors.RuntimeNotReady: Answer(409, "Runtime not ready"),
    errors.NoPublicAddress: Answer(409, "No public address"),
    errors.StackHeld: Answer(409, "Stack held"),
    errors.StackDraining: Answer(409, "Stack draining"),
    errors.PreconditionFailed: Answer(412, "Precondition failed"),
    errors.QuotaExceeded: Answer(409, "Quota exceeded"),
    errors.RateLimited: Answer(429, "Rate limited"),
    errors.IdempotencyInFlight: Answer(409, "Request in flight", (1, 2)),
    errors.IdempotencyMismatch: Answer(422, "Idempotency key used for another request"),
    errors.Unauthenticated: Answer(401, "Unauthenticated"),
    errors.Forbidden: Answer(403, "Forbidden"),
    errors.UpstreamUnavailable: Answer(503, "A system we depend on is unavailable", (1, 5)),
    errors.UpstreamNonsense: Answer(502, "A system we depend on answered nonsense", (1, 5)),
    errors.UpstreamDenied: Answer(502, "A system we depend on refused us"),
    errors.IndexConflict: Answer(503, "The job changed meanwhile", (1, 2)),
    errors.VersionConflict: Answer(503, "The secret changed meanwhile", (1, 2)),
    errors.SecretMissing: Answer(502, "The secret is missing"),
    errors.UpstreamRejected: Answer(502, "A system we depend on rejected the request"),
    errors.DeadlineExceeded: Answer(504, "No answer in time", (1, 5)),
    errors.ClaimLost: Answer(503, "The stack is being worked on elsewhere", (1, 2)),
}
"""Every error that may reach a caller. Of those that are not here, the class above them counts; else it is our defect."""

DEFECT: Final = Answer(500, "Internal error")

HTTP_CODES: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid-request", "The request is not valid HTTP."),
    404: ("not-found", "There is nothing at this path."),
    405: ("method-not-allowed", "This path does not take this method; the Allow field names those it does."),
    408: ("request-timeout", "The request did not arrive in time."),
    413: ("body-too-large", "The body is larger than this service reads."),
    414: ("uri-too-long", "The request target is longer than this service reads."),
    415: ("unsupported-media-type", "A body must be application/json in UTF-8, without content coding."),
    417: ("expectation-failed", "Of Expect this service knows 100-continue only."),
    431: ("headers-too-large", "The header fields are larger than this service reads."),
    503: ("unavailable", "The service is shutting down."),
}
"""What HTTP itself refuses, by status: our code and the words for it."""


def answer_for(error: LifecycleError) -> Answer:
    for kind in type(error).__mro__:
        if kind in ERRORS:
            return ERRORS[kind]
    return DEFECT


def render(error: Exception, request_id: str) -> web.Response:
    """Turn *error* into the response a caller gets. Whatever is not a known error is a 500 that tells nothing."""
    if isinstance(error, web.HTTPException):
        return _of_http(error, request_id)
    if not isinstance(error, LifecycleError) or (answer := answer_for(error)) is DEFECT:
        return problem(
            status=DEFECT.status,
            title=DEFECT.title,
            code="internal",
            detail="Something failed inside this service. The instance names the lines in its log.",
            request_id=request_id,
        )
    headers: dict[str, str] = {}
    if (seconds := _retry_after(error, answer)) is not None:
        headers["Retry-After"] = str(seconds)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = CHALLENGE
    return problem(
        status=answer.status,
        title=answer.title,
        code=error.code,
        detail=_detail(error, answer),
        request_id=request_id,
        headers=headers,
        faults=error.faults if isinstance(error, errors.InvalidBody) else None,
        facts=_facts(error, answer),
    )


def _detail(error: LifecycleError, answer: Answer) -> str:
    if (
        answer.status == HTTPStatus.NOT_FOUND
    ):  # word for word the same for what is not there and what is another's
        return error.default_message
    if isinstance(
        error, UpstreamError
    ):  # what it said is for the log: it may speak of names and places inside
        return f"The {error.system} call '{error.operation}' failed."
    if isinstance(error, errors.DeadlineExceeded):
        return "It took longer than its budget. Whether it happened is unknown; asking again is safe."
    return error.message


def _facts(error: LifecycleError, answer: Answer) -> Mapping[str, Any] | None:
    if answer.status == HTTPStatus.NOT_FOUND:
        return None
    if isinstance(error, UpstreamError):
        return {"system": error.system}
    return error.facts if isinstance(error, Refusal) and error.facts else None


def _retry_after(error: LifecycleError, answer: Answer) -> int | None:
    if isinstance(error, errors.RuntimeNotReady | errors.StackDraining | errors.RateLimited):
        return max(1, error.retry_after)
    if answer.retry is None:
        return None
    return random.randint(*answer.retry)


def _of_http(error: web.HTTPException, request_id: str) -> web.Response:
    """Render what HTTP itself refuses, with none of aiohttp's own words, since those may repeat the request's bytes."""
    code, detail = HTTP_CODES.get(error.status, ("http-error", "The request cannot be served."))
    allow = error.headers.get("Allow")
    response = problem(
        status=error.status,
        title=HTTPStatus(error.status).phrase,
        code=code,
        detail=detail,
        request_id=request_id,
        headers={"Allow": allow} if allow is not None else None,
    )
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        response.force_close()
    return response


def problem(
    *,
    status: int,
    title: str,
    code: str,
    detail: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    faults: tuple[errors.BodyFault, ...] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> web.Response:
    shape = ProblemShape(
        type=DOCUMENTATION + code,
        title=title,
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}",
        code=code,
        errors=[FaultShape(pointer=fault.pointer, detail=fault.detail) for fault in faults]
        if faults
        else None,
        facts=facts,
    )
    return web.Response(
        status=status,
        body=shape.model_dump_json(exclude_none=True).encode(),
        headers={"Content-Type": PROBLEM_TYPE, **(headers or {})},
    )
