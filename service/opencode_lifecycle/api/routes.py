"""
The complete public surface: every call, who may make it, and how it is limited. What is not on this page does not exist.

A `user` token reaches the rows marked `own`, and of those only the stack that is its subject. On the rows that name no
stack (operations, events) the handler keeps to that subject.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api import schemas
from opencode_lifecycle.api.parameters import Parameter
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass
from opencode_lifecycle.model.principal import Role

BACKEND, OPERATOR, AUDITOR, USER = Role.BACKEND, Role.OPERATOR, Role.AUDITOR, Role.USER
ALL: Final = frozenset(Role)
READ, ENSURE, LIFECYCLE, ADMIN = RateClass.READ, RateClass.ENSURE, RateClass.LIFECYCLE, RateClass.ADMIN

STACK: Final = "/v1/stacks/{user_id}"
OPERATION: Final = "/v1/operations/{operation_id}"
CONDITION: Final = "/v1/conditions/{condition_id}"
ORPHAN: Final = "/v1/orphans/{orphan_id}"
ROLLOUT: Final = "/v1/rollouts/{rollout_id}"
RELEASE: Final = "/v1/releases/{release_id}"
GROUP: Final = "/v1/groups/{group}"
TOKEN: Final = "/v1/tokens/{token_id}"  # noqa: S105 - a path

Answers = Mapping[int, type[BaseModel] | str | None]
"""By status: the shape of the answer, or its media type where it is no JSON, or None where it is empty."""


@dataclass(frozen=True, slots=True)
class Route:
    """
    One call. `roles` empty means that no token is needed.

    `takes` is the body, `idempotent` says that an `Idempotency-Key` is honoured, `conditional` that `If-Match` is.
    """

    method: str
    path: str
    handler: str
    roles: frozenset[Role]
    rate: RateClass | None
    summary: str
    answers: Answers
    takes: type[schemas.Incoming] | None = None
    query: tuple[Parameter[Any], ...] = ()
    idempotent: bool = False
    conditional: bool = False
    streams: bool = False

    names_stack: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names_stack", self.path.startswith(STACK))

    @property
    def is_public(self) -> bool:
        return not self.roles


def _roles(*roles: Role) -> frozenset[Role]:
    return frozenset(roles)


STACKS = schemas.ListShape[schemas.StackShape]
EVENTS = schemas.ListShape[schemas.EventShape]
CONDITIONS = schemas.ListShape[schemas.ConditionShape]
ORPHANS = schemas.ListShape[schemas.OrphanShape]
ROLLOUTS = schemas.ListShape[schemas.RolloutShape]
MEMBERS = schemas.ListShape[schemas.MemberShape]
RELEASES = schemas.ListShape[schemas.ReleaseShape]
TOKENS = schemas.ListShape[schemas.TokenShape]
ACCEPTED: Final[Answers] = {202: schemas.OperationShape}
CREDENTIALS: Final[Answers] = {200: schemas.CredentialsShape}
NOTHING = schemas.NothingBody
FILTERS: Final = (
    query.PHASE, query.HEALTH, query.MIGRATION_STATE, query.RELEASE, query.REASON, query.STALE, query.GROUP, query.LABEL,
)  # fmt: skip
PAGING: Final = (query.LIMIT, query.CURSOR)
LOG: Final = (query.LOG_TYPE, query.TAIL, query.FOLLOW)

# The table is read by people, so it is kept one call to a line or two.
# fmt: off
ROUTES: Final[tuple[Route, ...]] = (
    Route("PUT", STACK, "ensure", _roles(BACKEND, USER), ENSURE, "Ensure that the stack exists and runs as asked",
          {200: schemas.StackShape, 202: schemas.StackShape}, schemas.EnsureBody, (query.WAIT,), idempotent=True, conditional=True),
    Route("GET", STACK, "inspect", ALL, READ, "Show desired and observed state",
          {200: schemas.StackShape}),
    Route("GET", "/v1/stacks", "list_stacks", _roles(BACKEND, OPERATOR, AUDITOR), READ, "List stacks",
          {200: STACKS}, None, (*FILTERS, *PAGING)),
    Route("GET", STACK + "/address", "address", _roles(BACKEND, OPERATOR, USER), READ, "The proven address of the runtime",
          {200: schemas.AddressShape}, None, (query.AUDIENCE,)),
    Route("POST", STACK + "/credentials", "credentials", _roles(BACKEND, USER), READ, "The password of the running allocation",
          CREDENTIALS, NOTHING, (query.WRAP,)),
    # At work, each user's backend says so twice a minute: at the rate of a lifecycle call, 50/s, one backend could do that for 1,500.
    Route("POST", STACK + "/activity", "lease", _roles(BACKEND, USER), READ, "Say that the runtime is at work, so that it is not interrupted",
          {200: schemas.LeaseShape}, schemas.LeaseBody, (), idempotent=True),
    Route("POST", STACK + "/start", "start", _roles(BACKEND, OPERATOR, USER), LIFECYCLE, "Start the runtime",
          ACCEPTED, NOTHING, (), idempotent=True, conditional=True),
    Route("POST", STACK + "/stop", "stop", _roles(BACKEND, OPERATOR, USER), LIFECYCLE, "Stop the runtime at once, also under a lease, and keep its workspace",
          ACCEPTED, NOTHING, (query.HOLD,), idempotent=True, conditional=True),
    Route("POST", STACK + "/recreate", "recreate", _roles(BACKEND, OPERATOR, USER), LIFECYCLE, "Replace the runtime by a fresh one at once, also under a lease",
          ACCEPTED, NOTHING, (), idempotent=True, conditional=True),
    Route("POST", STACK + "/rotate-password", "rotate_password", _roles(BACKEND, OPERATOR), LIFECYCLE, "Give the runtime a new password, which replaces it at once, also under a lease",
          ACCEPTED, NOTHING, (), idempotent=True, conditional=True),
    Route("POST", STACK + "/recover", "recover", _roles(BACKEND, OPERATOR), LIFECYCLE, "Clear what keeps the stack down, and ensure it",
          ACCEPTED, schemas.DataBody, (), idempotent=True, conditional=True),
    Route("DELETE", STACK, "delete", _roles(BACKEND, OPERATOR), LIFECYCLE, "Tear the stack down at once, also under a lease",
          ACCEPTED, None, (query.WORKSPACE,), idempotent=True, conditional=True),
    Route("PUT", STACK + "/pin", "pin", _roles(OPERATOR), LIFECYCLE, "Hold the stack on a release",
          ACCEPTED, schemas.PinBody, (), idempotent=True, conditional=True),
    Route("DELETE", STACK + "/pin", "unpin", _roles(OPERATOR), LIFECYCLE, "Let the stack want what its group and the fleet want again",
          ACCEPTED, None, (), idempotent=True, conditional=True),
    Route("GET", STACK + "/logs", "log", _roles(OPERATOR, USER), READ, "The runtime's log, from Nomad",
          {200: "text/plain"}, None, LOG, streams=True),
    Route("GET", STACK + "/snapshots", "snapshots", _roles(OPERATOR), READ, "Snapshots of its data, as its entrypoint reports them",
          {200: schemas.SnapshotsShape}),
    # What is done next is planned for the answer, which asks neighbours.
    Route("GET", STACK + "/next", "next_look", _roles(BACKEND, OPERATOR, AUDITOR), ADMIN, "When the stack is taken up next, and what is done then",
          {200: schemas.NextLookShape}),
    Route("GET", STACK + "/events", "stack_events", ALL, READ, "What happened to the stack",
          {200: EVENTS}, None, PAGING, streams=True),
    Route("GET", "/v1/events", "events", ALL, READ, "What happened to all stacks, or to the user's own",
          {200: EVENTS}, None, PAGING, streams=True),
    Route("GET", OPERATION, "operation", ALL, READ, "Progress and outcome of an accepted request",
          {200: schemas.OperationShape}),
    Route("POST", "/v1/releases", "create_release", _roles(OPERATOR), ADMIN, "Make a release, after everything of it was checked",
          {201: schemas.MadeReleaseShape, 200: schemas.MadeReleaseShape}, schemas.ReleaseBody, (), idempotent=True),
    Route("GET", "/v1/releases", "list_releases", _roles(OPERATOR, AUDITOR), READ, "List releases, the newest first",
          {200: RELEASES}, None, PAGING),
    Route("GET", RELEASE, "release", _roles(OPERATOR, AUDITOR), READ, "Everything that the release is made of",
          {200: schemas.WholeReleaseShape}),
    Route("POST", RELEASE + "/use", "use_release", _roles(OPERATOR), ADMIN, "Make it the fleet's target, and move nobody",
          {200: schemas.WholeReleaseShape}, NOTHING, (), idempotent=True),
    Route("GET", GROUP, "group", _roles(OPERATOR, AUDITOR), READ, "What is otherwise for the group than for the fleet",
          {200: schemas.GroupShape}),
    Route("PUT", GROUP, "put_group", _roles(OPERATOR), ADMIN, "Have the group want another release, or be stopped when idle",
          {200: schemas.GroupShape}, schemas.GroupBody, (), idempotent=True),
    Route("GET", "/v1/staleness", "staleness", _roles(OPERATOR, AUDITOR), READ, "The fleet by the reasons why it is stale",
          {200: schemas.StalenessSummaryShape}),
    Route("POST", "/v1/reconcile", "reconcile", _roles(OPERATOR), ADMIN, "Compare everything now, and put it right or tell what would be done",
          {200: schemas.ReconcileShape}, NOTHING, (query.DRY_RUN,), idempotent=True),
    Route("GET", "/v1/orphans", "list_orphans", _roles(OPERATOR), ADMIN, "What bears our names and has no row",
          {200: ORPHANS}, None, PAGING),
    Route("POST", ORPHAN + "/adopt", "adopt_orphan", _roles(OPERATOR), ADMIN, "Make the row that the orphan lacks",
          {200: schemas.StackShape}, NOTHING, (), idempotent=True),
    Route("POST", ORPHAN + "/delete", "delete_orphan", _roles(OPERATOR), ADMIN, "Delete the orphan; a job is stopped first and deleted when called again",
          {204: None}, NOTHING, (), idempotent=True),
    Route("GET", "/v1/conditions", "list_conditions", _roles(OPERATOR, AUDITOR), ADMIN, "What is wrong with the whole, and what it holds back",
          {200: CONDITIONS}, None, (query.STANDING, *PAGING)),
    Route("POST", CONDITION + "/confirm", "confirm_condition", _roles(OPERATOR), ADMIN, "Take what is seen for the truth",
          {200: schemas.ConditionShape}, NOTHING, (), idempotent=True),
    Route("POST", "/v1/rollouts/plan", "plan_rollout", _roles(OPERATOR), ADMIN, "What a rollout would do, under an id that can be applied",
          {200: schemas.RolloutPlanShape}, schemas.RolloutBody, (), idempotent=True),
    Route("POST", "/v1/rollouts", "start_rollout", _roles(OPERATOR), ADMIN, "Begin a rollout: one that was planned, or that the body describes",
          {201: schemas.RolloutShape}, schemas.StartRolloutBody, (), idempotent=True),
    Route("GET", "/v1/rollouts", "list_rollouts", _roles(OPERATOR, AUDITOR), READ, "List rollouts, the newest first",
          {200: ROLLOUTS}, None, PAGING),
    Route("GET", ROLLOUT, "rollout", _roles(OPERATOR, AUDITOR), READ, "How far the rollout is, with a page of its members",
          {200: schemas.RolloutDetailShape}, None, (query.MEMBER_STATE, query.MEMBER, *PAGING)),
    Route("POST", ROLLOUT + "/pause", "pause_rollout", _roles(OPERATOR), ADMIN, "Move nobody else until it is resumed",
          {200: schemas.RolloutShape}, NOTHING, (), idempotent=True),
    Route("POST", ROLLOUT + "/resume", "resume_rollout", _roles(OPERATOR), ADMIN, "Go on, letting pass what made it pause",
          {200: schemas.RolloutShape}, NOTHING, (), idempotent=True),
    Route("POST", ROLLOUT + "/abort", "abort_rollout", _roles(OPERATOR), ADMIN, "Move nobody else, for good",
          {200: schemas.RolloutShape}, NOTHING, (), idempotent=True),
    Route("POST", ROLLOUT + "/rollback", "rollback_rollout", _roles(OPERATOR), ADMIN, "Bring back whoever was moved, and the fleet's target",
          {200: schemas.RolloutShape}, schemas.DataBody, (), idempotent=True),
    Route("GET", "/v1/tokens", "list_tokens", _roles(OPERATOR), ADMIN, "List service tokens",
          {200: TOKENS}, None, PAGING),
    Route("POST", "/v1/tokens", "issue_token", _roles(OPERATOR), ADMIN, "Issue a token; its secret is shown once",
          {201: schemas.IssuedTokenShape}, schemas.TokenBody, (), idempotent=True),
    Route("DELETE", TOKEN, "revoke_token", _roles(OPERATOR), ADMIN, "Revoke a token",
          {204: None}, None, (), idempotent=True),
    Route("GET", "/livez", "live", frozenset(), None, "Whether the process answers",
          {200: schemas.LivenessShape}),
    Route("GET", "/readyz", "ready", frozenset(), None, "Whether what we depend on answers, a line each",
          {200: schemas.ReadinessShape, 503: schemas.ReadinessShape}),
    Route("GET", "/metrics", "metrics", frozenset(), None, "Figures for Prometheus",
          {200: "text/plain"}),
    Route("GET", "/openapi.json", "description", frozenset(), None, "This API, described for machines",
          {200: "application/json"}),
    Route("GET", "/docs", "documentation", frozenset(), None, "This API, described for people",
          {200: "text/html"}),
)
# fmt: on
