"""What rollouts ask of the world: whether a job could be placed, and whether a runtime answers a prompt."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.lifecycle.parameters import Parameters
from opencode_lifecycle.lifecycle.reconciling.wanted import job_variables, wanted_facets
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.requests.groups import Groups
from opencode_lifecycle.lifecycle.rollouts.driver import RolloutDriver
from opencode_lifecycle.lifecycle.rollouts.rollouts import Rollouts
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError, UpstreamRejected
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.rollout import Placement, PromptVerdict
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult, ReadPassword, RuntimeProber

PROMPT_SECONDS: Final = 40.0
"""How long an answer to the prompt of the gate is waited for."""

_VERDICTS: Final = {
    PromptOutcome.ANSWERED: PromptVerdict.ANSWERED,
    PromptOutcome.FAILED: PromptVerdict.FAILED,
    PromptOutcome.TIMED_OUT: PromptVerdict.FAILED,
    PromptOutcome.NOT_ASKED: PromptVerdict.UNKNOWN,
}


class Asking:
    """Never raises for what it cannot find out: that is the answer."""

    def __init__(
        self, *, neighbours: Neighbours, parameters: Parameters, releases: Releases, vouching: Vouching
    ) -> None:
        self._orchestrator = neighbours.orchestrator
        self._releases = releases
        self._vouching = vouching
        self._site = parameters.site
        self._timeout = parameters.upstream_timeout.total_seconds()

    async def place(self, stack: Stack, release_id: ReleaseId | None) -> tuple[Placement, str]:
        """Have Nomad plan the job of *stack* on the release, changing nothing."""
        wanted = release_id or stack.intent.wanted_release
        release, _ = await self._releases.get(wanted)
        stack = replace(stack, intent=replace(stack.intent, wanted_release=wanted))
        facets = wanted_facets(stack, release, self._site, secret_version=stack.status.secret_version or 0)
        deadline = Deadline.after(self._timeout, "plan a placement")
        try:
            variables = job_variables(stack, release, self._site, facets)
            job = await self._orchestrator.render(release.template, variables, deadline)
            found = await self._orchestrator.plan_placement(job, deadline)
        except UpstreamRejected as error:
            return Placement.REFUSED, error.message
        except (UpstreamError, DeadlineExceeded) as error:
            return Placement.UNKNOWN, error.message
        if found.failure is None:
            return Placement.POSSIBLE, ""
        return Placement.REFUSED, found.failure

    async def prompt(self, stack: Stack, text: str) -> tuple[PromptVerdict, str]:
        deadline = Deadline.after(PROMPT_SECONDS, "put the prompt of the gate")

        async def ask(prober: RuntimeProber, address: Address, read: ReadPassword) -> PromptResult:
            return await prober.prompt(address=address, read_password=read, text=text, deadline=deadline)

        result = await self._vouching.ask(stack, "prompt", ask, deadline)
        if result is None:
            return PromptVerdict.UNKNOWN, ""
        return _VERDICTS[result.outcome], result.detail


def rolling_out(
    *,
    neighbours: Neighbours,
    parameters: Parameters,
    fleet: Fleet,
    releases: Releases,
    groups: Groups,
    vouching: Vouching,
    hint: Callable[[UserId], object],
    catch_up: Callable[[], Awaitable[object]],
) -> tuple[Rollouts, RolloutDriver]:
    """Return the use cases of rollouts and what drives them, wired to each other."""
    asking = Asking(neighbours=neighbours, parameters=parameters, releases=releases, vouching=vouching)
    store, now = neighbours.store, parameters.clock
    driver = RolloutDriver(
        rollouts=store,
        stacks=store,
        targets=store,
        fleet=fleet,
        releases=releases,
        pins=lambda: groups.pins,
        hint=hint,
        ask=asking.prompt,
        catch_up=catch_up,
        now=now,
        claim_lifetime=parameters.claim_lifetime,
    )
    rollouts = Rollouts(
        store=store,
        fleet=fleet,
        releases=releases,
        pins=lambda: groups.pins,
        site=parameters.site,
        now=now,
        told=driver.told,
        place=asking.place,
    )
    return rollouts, driver
