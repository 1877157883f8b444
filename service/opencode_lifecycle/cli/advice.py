"""What a person can do about a refusal or a failed stack, by the code that names it."""

from collections.abc import Mapping
from typing import Final

from opencode_lifecycle.model.states import Reason

SERVICE_UNREACHABLE: Final = "service-unreachable"
UNEXPECTED_ANSWER: Final = "unexpected-answer"

FOR_PROBLEMS: Final[Mapping[str, str]] = {
    SERVICE_UNREACHABLE: "see that the service runs (`make up`, or `opencode-lifecycle serve`) and that --url names it",
    UNEXPECTED_ANSWER: "see that --url names the lifecycle service and no other server or proxy",
    "invalid-user-id": "give the id exactly as the backend does",
    "invalid-request": "see `--help` for what the options take",
    "invalid-body": "correct what is named above",
    "stack-not-found": "see `opencode-lifecycle list`; `opencode-lifecycle ensure USER` makes one",
    "operation-not-found": "see `opencode-lifecycle show USER` for its last operation",
    "condition-not-found": "see `opencode-lifecycle conditions list`",
    "orphan-not-found": "see `opencode-lifecycle orphans list`",
    "orphan-not-proven": "look at it with its own system's tools, and remove it there if it is nobody's",
    "token-not-found": "see `opencode-lifecycle token list`",
    "release-not-found": "name a release that exists",
    "runtime-not-ready": "`opencode-lifecycle ensure USER` starts it and waits; `show USER` says what it waits for",
    "no-public-address": "ask for `--audience internal`, or set public_url_template in the service's settings",
    "stack-held": "`opencode-lifecycle start USER` or `recover USER` ends the hold",
    "stack-draining": "try again when it has stopped",
    "precondition-failed": "look at it again (`show USER`) and repeat",
    "quota-exceeded": "free some, or have the limit raised by whom the message names",
    "rate-limited": "wait, then try again",
    "idempotency-in-flight": "wait for the first request to be answered",
    "idempotency-mismatch": "repeat the command; every run uses a key of its own",
    "unauthenticated": "name the file of a valid token with --token-file or OPENCODE_LIFECYCLE_TOKEN_FILE",
    "forbidden": "use a token of a role that may do this (credentials: backend, or the user itself); "
    "`opencode-lifecycle doctor` says which one you have",
    "upstream-unavailable": "try again; `opencode-lifecycle doctor` names the server that is down",
    "upstream-nonsense": "try again; look at that server's own log when it persists",
    "upstream-denied": "give the service's token at that server the right it lacks",
    "upstream-rejected": "read the message: repeating it will not help",
    "index-conflict": "try again",
    "version-conflict": "try again",
    "secret-missing": "`opencode-lifecycle rotate-password USER` writes a new one",
    "deadline-exceeded": "try again; the request may have been accepted, `opencode-lifecycle show USER` tells",
}

FOR_REASONS: Final[Mapping[Reason, str]] = {
    Reason.NO_CAPACITY: "free or add a node that fits (`nomad node status`), or ask for smaller --resources; "
    "it is retried by itself",
    Reason.DRIVER_FAILED: "read why the task exits: `opencode-lifecycle logs USER --type stderr`, `nomad alloc status`",
    Reason.SECRET_MISSING: "`opencode-lifecycle rotate-password USER` writes a new password",
    Reason.NEVER_HEALTHY: "read its log: `opencode-lifecycle logs USER`; then `opencode-lifecycle recreate USER`",
    Reason.WRONG_VERSION: "the image or executable is not the version the release names; correct the release",
    Reason.OPEN_WITHOUT_PASSWORD: "the job template or image drops the password; correct it, then "
    "`opencode-lifecycle recover USER`",
    Reason.FOREIGN_JOB: "a job of that name is not ours: `nomad job inspect` it, move it away, then "
    "`opencode-lifecycle recover USER`",
    Reason.JOB_REJECTED: "correct what Nomad says of the job, then `opencode-lifecycle recover USER`",
    Reason.WORKSPACE_UNAVAILABLE: "bring the node of its volume back (`nomad volume status -type host`)",
    Reason.NOMAD_UNAVAILABLE: "bring Nomad back; the stack follows by itself",
    Reason.VAULT_UNAVAILABLE: "bring Vault back or unseal it; the stack follows by itself",
    Reason.CONSUL_UNAVAILABLE: "bring Consul back; the stack follows by itself",
    Reason.LOST: "nothing: it is being started again",
    Reason.CONTESTED: "see which services have that address (`consul catalog nodes -service=NAME`); deregister the one that "
    "is not there any more. It goes on by itself when one is left",
    Reason.CRASH_LOOP: "read why it exits: `opencode-lifecycle logs USER --type stderr`; the message has the exit code",
    Reason.OUT_OF_MEMORY: "give it more: `opencode-lifecycle ensure USER --resources NAME`, or raise memory_max of its "
    "resource class",
    Reason.UNRESPONSIVE: "nothing: it answered nothing for long and is started afresh",
    Reason.STALE: "nothing: it is started as it should be; `opencode-lifecycle events USER` says what had changed",
    Reason.RECYCLE: "nothing: it was idle, and too old or too large",
    Reason.BRAKE: "look at `opencode-lifecycle conditions list`, and confirm what is true",
    Reason.UNKNOWN: "nothing is lost; `opencode-lifecycle doctor` names what cannot be seen",
    Reason.RECREATE: "nothing: it is being started afresh",
    Reason.IDLE: "`opencode-lifecycle ensure USER` starts it again",
}


def about_problem(code: str) -> str:
    """Return what to do about a refusal of that *code*; codes of a newer service get a general answer."""
    return FOR_PROBLEMS.get(
        code, "`opencode-lifecycle doctor` checks the connection and what the service depends on"
    )


def about_reason(reason: object) -> str:
    """Return what to do about a stack that is in its phase for *reason*, or an empty text."""
    try:
        return FOR_REASONS[Reason(str(reason))]
    except ValueError:
        return ""
