"""
What is looked at before a release may be used. Each refusal names its place in the request and why; nothing is stored.

What can be told from the content alone comes first, then Nomad's own word on the template, then OpenCode's on the
configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from opencode_lifecycle.lifecycle.reconciling.wanted import Site, job_variables, wanted_facets
from opencode_lifecycle.lifecycle.releases import ReleaseContent
from opencode_lifecycle.lifecycle.requests.request import DEFAULT_GROUP
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import BodyFault, BundleTooLarge, InvalidBody, UpstreamRejected
from opencode_lifecycle.model.identifiers import UserId, VolumeId, job_id_of
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import Intent, Stack, Status, Workspace
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.ports.config_check import ConfigCheck, Outcome
from opencode_lifecycle.ports.orchestrator import Orchestrator

CONFIG_SECONDS: Final = 60.0
"""For OpenCode's own check, which takes four when nothing else is going on."""
_EXAMPLE: Final = UserId("example")
_LONGEST_REASON: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRules:
    """What an operator's settings say of every release."""

    allowed_environment: frozenset[str] = frozenset()
    """Names of variables that a release may set."""
    opencode_floor: str = "1.18.15"
    default_resources: str

    def faults(self, content: ReleaseContent, base: ReleaseContent) -> list[BodyFault]:
        """Return what the content says that is not allowed. What the base says already is."""
        faults = content.faults()
        if _numbers(content.opencode_version) < _numbers(self.opencode_floor):
            detail = (
                f"{content.opencode_version} is below the safe floor {self.opencode_floor} (setting opencode_floor): older "
                "servers silently lose prompts in sessions that began before their clock of message ids wrapped"
            )
            faults.append(BodyFault("/opencode_version", detail))
        for name, value in content.environment.items():
            if name not in self.allowed_environment and name not in base.environment:
                faults.append(BodyFault(f"/environment/{name}", "the operator does not allow this name"))
            if "${" in value or "{{" in value:
                faults.append(BodyFault(f"/environment/{name}", "must not contain ${ or {{"))
        if self.default_resources not in content.resource_classes:
            detail = f"has no class {self.default_resources}, which stacks are of that ask for none"
            faults.append(BodyFault("/resource_classes", detail))
        return faults


class ReleaseChecks:
    def __init__(
        self,
        *,
        rules: ReleaseRules,
        orchestrator: Orchestrator,
        config_check: ConfigCheck,
        site: Site,
        namespace: str,
        region: str,
        now: Clock,
        upstream_timeout: timedelta,
    ) -> None:
        self._rules = rules
        self._orchestrator = orchestrator
        self._config_check = config_check
        self._site = site
        self._namespace = namespace
        self._region = region
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()

    async def check(self, release: Release, base: Release) -> Mapping[str, str]:
        """
        Return what was checked and what was said to it, or raise `InvalidBody` or `BundleTooLarge`.

        A neighbour that cannot be asked is an `UpstreamError`: what was not checked for that is not stored either.
        """
        content = ReleaseContent.of(release)
        if faults := self._rules.faults(content, ReleaseContent.of(base)):
            raise InvalidBody(faults, "The release could not be used as it is.")
        if faults := content.oversizes():
            raise BundleTooLarge(faults)
        await self._check_template(release)
        return {"template": "accepted by Nomad", "config": await self._check_config(release)}

    async def _check_template(self, release: Release) -> None:
        """
        Have Nomad render the job of an example and plan it, once for each resource class.

        What parses may still be no job: only the plan sees what a registration would be refused for. Whether the example
        could be placed says nothing, since it has no volume.
        """
        for name in sorted(release.resource_classes):
            stack = self._example(release, name)
            facets = wanted_facets(stack, release, self._site, secret_version=1)
            variables = job_variables(stack, release, self._site, facets)
            deadline = Deadline.after(2 * self._upstream_timeout, "have Nomad read and plan the template")
            try:
                job = await self._orchestrator.render(release.template, variables, deadline)
                await self._orchestrator.plan_placement(job, deadline)
            except UpstreamRejected as error:
                reason = " ".join(error.detail.split())[:_LONGEST_REASON]
                detail = f"Nomad refuses it (for the resource class {name}): {reason}"
                raise InvalidBody([BodyFault("/template", detail)]) from None

    def _example(self, release: Release, resources: str) -> Stack:
        now = self._now()
        return Stack(
            user_id=_EXAMPLE,
            job_id=job_id_of(self._site.installation, _EXAMPLE),
            namespace=self._namespace,
            region=self._region,
            intent=Intent(
                generation=1,
                desired=Desired.RUNNING,
                group=DEFAULT_GROUP,
                resources=resources,
                labels={"example": "label"},
                environment={},
                wanted_release=release.id,
            ),
            status=Status(
                phase_since=now,
                workspace=Workspace(volume_id=VolumeId("example"), node_id="", path="/srv/example"),
            ),
            created_at=now,
            updated_at=now,
        )

    async def _check_config(self, release: Release) -> str:
        deadline = Deadline.after(CONFIG_SECONDS, "have OpenCode check the managed configuration")
        verdict = await self._config_check.check(
            version=release.opencode_version, managed=release.managed, deadline=deadline
        )
        if verdict.outcome is Outcome.REFUSED:
            raise InvalidBody([BodyFault("/managed_config", verdict.message)])
        if verdict.outcome is Outcome.ACCEPTED:
            return verdict.message
        if verdict.outcome is Outcome.NO_SUCH_PROGRAM:
            detail = f"there is no such program to start: {verdict.message}"
            raise InvalidBody([BodyFault("/opencode_version", detail)])
        return f"not checked: {verdict.message}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
