"""Bugs to plant where servers are not what they should be, and where what is stopped could not start again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from unittest.mock import patch

from opencode_lifecycle.lifecycle.observing.proving import Proving
from opencode_lifecycle.lifecycle.reconciling import planning
from opencode_lifecycle.lifecycle.reconciling.effects import Effects
from opencode_lifecycle.lifecycle.reconciling.planning import interrupting, running, starting
from opencode_lifecycle.lifecycle.reconciling.steps import Part
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.proof import ProofResult
from opencode_lifecycle.model.states import FINAL_REASONS, Reason
from opencode_lifecycle.ports.prober import Liveness


def counts_as_proven(result: ProofResult) -> Callable[[], AbstractContextManager[None]]:
    """Return what lets the proof of a server that came to *result* count as one that it is as it should be."""

    @contextmanager
    def planted() -> Iterator[None]:
        plan_starting = planning.plan_starting

        def gullible(work, seen, now, limits):
            if work.proof is not None and work.proof.result is result:
                work = replace(work, proof=replace(work.proof, result=ProofResult.PROVEN))
            return plan_starting(work, seen, now, limits)

        with patch.object(planning, "plan_starting", gullible):
            yield

    return planted


@contextmanager
def what_opens_itself_is_left_so() -> Iterator[None]:
    no_longer_safe = running._no_longer_safe

    def trusting(work, now):
        return no_longer_safe(work, now) if work.liveness is not Liveness.OPEN else None

    with patch.object(running, "_no_longer_safe", trusting):
        yield


@contextmanager
def an_open_server_is_started_again() -> Iterator[None]:
    """What is open counts as any failure: it is tried again after a while, by itself."""
    with patch.object(starting, "FINAL_REASONS", FINAL_REASONS - {Reason.OPEN_WITHOUT_PASSWORD}):
        yield


@contextmanager
def why_it_is_not_proven_is_not_told() -> Iterator[None]:
    why = starting._why_not_running

    def silent(work, seen, allocation):
        return why(replace(work, proof=None), seen, allocation)

    with patch.object(starting, "_why_not_running", silent):
        yield


@contextmanager
def it_is_stopped_for_a_change_while_vault_is_away() -> Iterator[None]:
    """What is to follow is checked with Nomad alone."""
    check = Effects._check

    async def without_vault(self, current, deadline):
        needs = current.work.needs
        current.work = replace(current.work, needs=replace(needs, secret=False))
        try:
            await check(self, current, deadline)
        finally:
            current.work = replace(current.work, needs=needs)

    with patch.object(Effects, "_check", without_vault):
        yield


@contextmanager
def it_is_forced_by_an_old_look_at_its_node() -> Iterator[None]:
    """The node is not looked at once more before a runtime is stopped by force."""
    force = interrupting._force

    def hasty(work, change, now):
        return force(replace(work, done=work.done | {Part.NODES}), change, now)

    with patch.object(interrupting, "_force", hasty):
        yield


@contextmanager
def a_password_is_told_with_why_it_is_not_proven() -> Iterator[None]:
    look = Proving._look

    async def talkative(self, stack, candidate):
        proof = await look(self, stack, candidate)
        if proof.result is not ProofResult.REFUSES_PASSWORD:
            return proof
        deadline = Deadline.after(10, "read it")
        password = await self._passwords.read(stack, candidate.secret_version, deadline)
        return replace(proof, detail=f"it refused {password.reveal()}")

    with patch.object(Proving, "_look", talkative):
        yield
