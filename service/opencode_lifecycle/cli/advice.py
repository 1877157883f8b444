"""What refusals, reasons, conditions and watches mean to a person, and what to do, by the code that names them."""

from collections.abc import Mapping
from typing import Final

from opencode_lifecycle.model.condition import ConditionKind
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
    "release-not-found": "see `opencode-lifecycle release list`",
    "bundle-too-large": "shorten the text that is named above",
    "rollout-not-found": "see `opencode-lifecycle rollout list`",
    "rollout-active": "see `opencode-lifecycle rollout watch`; when it has ended, or after `rollout abort`, ask again",
    "rollout-finished": "see how it stands: `opencode-lifecycle rollout show`",
    "rollback-impossible": "roll out a release that exists: `opencode-lifecycle rollout plan --release ID`",
    "plan-not-found": "make a new one: `opencode-lifecycle rollout plan`",
    "plan-lapsed": "make a new one: `opencode-lifecycle rollout plan`",
    "nothing-to-do": "nothing; `opencode-lifecycle staleness` says what is stale in the fleet",
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
    "forbidden": "use a token of a role that may do this, by --token-file or OPENCODE_LIFECYCLE_TOKEN_FILE: `ensure` and "
    "`credentials` are for a backend, or the user itself; `make up` puts one of each role into .local/tokens/",
    "no-capacity": "free or add a node that fits (`nomad node status`), then try again",
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
    Reason.SECRET_MISSING: "`opencode-lifecycle rotate-password USER` writes a new password; the vault command below shows "
    "which versions are left",
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
    Reason.NOT_ENDED: "see to the node that the message names (`nomad node status`); it goes on as soon as Nomad says that the "
    "allocation ended or its node is lost",
    Reason.CRASH_LOOP: "read why it exits: `opencode-lifecycle logs USER --type stderr`; the message has the exit code",
    Reason.OUT_OF_MEMORY: "give it more: `opencode-lifecycle ensure USER --resources NAME`, or raise memory_max of its "
    "resource class",
    Reason.DATA_NEWER: "leave it on the newer version (pin it to a release with that, if it does not run); or go back and set "
    "aside what was written since: `opencode-lifecycle recover USER --data restore`",
    Reason.DISK_FULL: "free room on the node of its volume (`opencode-lifecycle snapshots USER` says how much is missing), then "
    "`opencode-lifecycle recover USER`",
    Reason.UNRESPONSIVE: "nothing: it answered nothing for long and is started afresh",
    Reason.STALE: "nothing: it is started as it should be; `opencode-lifecycle events USER` says what had changed",
    Reason.RECYCLE: "nothing: it was idle, and too old or too large",
    Reason.BRAKE: "look at `opencode-lifecycle conditions list`, and confirm what is true",
    Reason.UNKNOWN: "nothing is lost; `opencode-lifecycle doctor` names what cannot be seen",
    Reason.RECREATE: "nothing: it is being started afresh",
    Reason.IDLE: "`opencode-lifecycle ensure USER` starts it again",
    Reason.TAKEN_BACK: "see why with `opencode-lifecycle explain USER`; have it tried again with `opencode-lifecycle recover USER`",
    Reason.NOT_DELIVERED: "`opencode-lifecycle recreate USER` brings the files with a restart; see that Nomad's clients reach its "
    "servers",
    Reason.BAD_CONFIG: "correct the managed configuration (`opencode debug config` says what is wrong) and use a release with it; "
    "what is wrong in its project, its user must correct",
    Reason.NODE_DRAINING: "nothing: it goes on by itself when its node takes jobs again (`nomad node drain -disable`, `nomad node "
    "eligibility -enable`)",
    Reason.AT_WORK: "wait until its agent has finished, then `opencode-lifecycle recover USER`; or move it now, which cuts the "
    "agent off: `opencode-lifecycle recreate USER`",
}


MEANING: Final[Mapping[Reason, str]] = {
    Reason.NO_CAPACITY: "Nomad can place its job on no node.",
    Reason.DRIVER_FAILED: "Its task cannot be started, or exits again and again before it was ever proven.",
    Reason.SECRET_MISSING: "Its password, or the version of it that the job names, is not in Vault.",
    Reason.NEVER_HEALTHY: "It ran until the start deadline and never passed the proof.",
    Reason.WRONG_VERSION: "The server that answers is another OpenCode version than the release says.",
    Reason.OPEN_WITHOUT_PASSWORD: "It answered without a password, so it was stopped at once.",
    Reason.FOREIGN_JOB: "Nomad has a job of its name that is not provably ours, and that is left alone.",
    Reason.JOB_REJECTED: "Nomad refused its job.",
    Reason.WORKSPACE_UNAVAILABLE: "Its workspace volume, or the node of that, is lost; it is not replaced by an empty one.",
    Reason.NOMAD_UNAVAILABLE: "Nomad cannot be reached, so nothing is concluded about it.",
    Reason.VAULT_UNAVAILABLE: "Vault cannot be reached, so nothing is concluded about it.",
    Reason.CONSUL_UNAVAILABLE: "Consul cannot be reached, so nothing is concluded about it.",
    Reason.LOST: "Its runtime ended or its job was removed without our asking; it is being started again.",
    Reason.CONTESTED: "Consul lists its address for another runtime as well, so it was withdrawn until one is left.",
    Reason.NOT_ENDED: "Its last allocation has not ended in time, and nothing else may use its workspace before.",
    Reason.CRASH_LOOP: "It was proven and has exited since; Nomad starts it again.",
    Reason.OUT_OF_MEMORY: "It was killed because it used more memory than it may.",
    Reason.DATA_NEWER: "Its data is newer than the OpenCode that should start on it and was written to since, so that was not "
    "started.",
    Reason.DISK_FULL: "There was no room for the snapshot that is taken before another version starts on its data.",
    Reason.UNRESPONSIVE: "It took connections and answered none, so it is being replaced.",
    Reason.STALE: "It is being stopped in order to be started as it should be.",
    Reason.RECYCLE: "It was idle and too old or too large, and is being started afresh.",
    Reason.BRAKE: "It is not where it should be, and a standing condition holds back what would be done.",
    Reason.UNKNOWN: "It cannot be seen at the moment.",
    Reason.RECREATE: "It is being stopped in order to be started afresh, as was asked.",
    Reason.IDLE: "It was stopped because nobody used it.",
    Reason.TAKEN_BACK: "What was asked for did not become healthy, so what ran before runs again.",
    Reason.NOT_DELIVERED: "Its new instructions or configuration did not reach it in time.",
    Reason.BAD_CONFIG: "It cannot load its configuration: the managed one that it was given, or one in its user's project.",
    Reason.AT_WORK: "Its agent was at work until the deadline of its migration, which is held therefore.",
    Reason.NODE_DRAINING: "Its node is being drained or takes nothing new, and its workspace lies there.",
}

FOR_CONDITIONS: Final[Mapping[ConditionKind, str]] = {
    ConditionKind.MASS_DISAPPEARANCE: "compare with `nomad job status`; only if they are really gone, CONFIRM has them "
    "started again",
    ConditionKind.OTHER_CLUSTER: "see that `nomad_address` names the right cluster; only if this is the cluster from now on, "
    "CONFIRM has everything started in it",
    ConditionKind.OLDER_SNAPSHOT: "ask whether Nomad was restored from a snapshot; if it was, CONFIRM has every stack brought "
    "to where it should be",
    ConditionKind.MASS_SILENCE: "see whether the network from here to the nodes works (`curl` an address of `opencode-lifecycle "
    "list`); only if they are really dead, CONFIRM has them replaced",
    ConditionKind.SECRETS_MISSING: "see that `vault_address` names the right Vault (`vault kv list -mount=kv opencode`); only if "
    "they are really gone, CONFIRM has new ones written",
}

FOR_DEPENDENCIES: Final[Mapping[str, str]] = {
    "observation": "see what else fails here; a listing is not believed while a condition stands",
    "comparison": "wait: it ends by itself once Nomad can be seen and no condition stands",
    "workers": "see the service's log; when nothing moves there, restart it",
}
"""Of what the service makes of its neighbours itself. A neighbour is brought back."""

FOR_WATCHES: Final[Mapping[str, str]] = {
    "nomad_events": "see that the service reaches Nomad (`nomad server members`); the listing stands in meanwhile",
    "nomad_listing": "see that the service reaches Nomad and that its token may list jobs and allocations",
    "nomad_nodes": "see that the service reaches Nomad and that its token may read nodes; drains are not followed meanwhile",
    "consul_checks": "see that the service reaches Consul; probes stand in meanwhile",
    "consul_comparison": "see that the service reaches Consul and that its token may list services",
    "vault_versions": "see that the service reaches Vault (`vault status`); a rotated password is noticed later meanwhile",
    "probes": "see the service's log for `loop failed`; a runtime that hangs is found later meanwhile",
    "usage": "see that the service reaches Nomad's clients; only recycling for memory depends on it",
    "orphans": "see the service's log for `loop failed`; nothing is adopted or deleted meanwhile",
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


def meaning_of(reason: object) -> str:
    """Return what *reason* says of a stack in one sentence, or an empty text for none and for those of a newer service."""
    try:
        return MEANING[Reason(str(reason))]
    except ValueError:
        return ""


def about_condition(kind: object, condition_id: object) -> str:
    """Return how to find out whether a condition is true, and how to confirm it then."""
    confirm = f"`opencode-lifecycle conditions confirm {condition_id}`"
    try:
        return FOR_CONDITIONS[ConditionKind(str(kind))].replace("CONFIRM", confirm)
    except ValueError:
        return f"read its message; {confirm} says that it is true"


def about_dependency(name: str) -> str:
    return FOR_DEPENDENCIES.get(name, f"bring {name} back; nothing is lost")


def about_watch(name: str) -> str:
    return FOR_WATCHES.get(name, "see the service's log for `loop failed`")
