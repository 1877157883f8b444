"""Lets listings of Nomad into memory: whole, in part, or not at all."""

import secrets

import structlog

from opencode_lifecycle.lifecycle.braking.brake import Expected, expected_of, judge
from opencode_lifecycle.lifecycle.braking.conditions import Conditions
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamError
from opencode_lifecycle.ports.orchestrator import ClusterMark, Listing
from opencode_lifecycle.ports.stores import InstallationStore

log = structlog.get_logger(__name__)

_OF_NOMAD = (
    ConditionKind.OTHER_CLUSTER,
    ConditionKind.OLDER_SNAPSHOT,
    ConditionKind.MASS_DISAPPEARANCE,
)


class Admission:
    """
    The brake at work: what a listing says is judged before it is believed.

    While a condition stands unconfirmed, only what a listing shows is taken in; of another cluster, nothing.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        conditions: Conditions,
        marks: ClusterMark,
        store: InstallationStore,
        installation: str,
        shares_database: bool,
    ) -> None:
        self._shares_database = shares_database
        self._fleet = fleet
        self._conditions = conditions
        self._marks = marks
        self._store = store
        self._installation = installation
        self._mark: str | None = None

    def expectations(self) -> tuple[int, list[Expected]]:
        """Return, before a listing begins, what it must not contradict: our highest write, and what must be in it."""
        expected = (expected_of(known.stack) for known in self._fleet)
        return self._fleet.highest_write(), [each for each in expected if each is not None]

    async def admit(self, listing: Listing, before: tuple[int, list[Expected]], deadline: Deadline) -> None:
        """
        Judge *listing* by what was so *before* it began, and take in as much of it as is believed.

        What was stopped, deleted or removed while it was read is not missed in it.
        """
        if self._shares_database:
            # What another replica raised, or an operator confirmed there, holds here as well.
            await self._conditions.load()
        highest, expected = before
        marks = {
            "known_mark": await self._known_mark(deadline),
            "seen_mark": await self._marks.read(self._installation, deadline),
        }
        suspicions = judge(listing, expected, highest_write=highest, **marks)
        if suspicions:
            # Only then does it matter what is not expected any more.
            now_expected = {each.job_id for each in self.expectations()[1]}
            expected = [each for each in expected if each.job_id in now_expected]
            suspicions = judge(listing, expected, highest_write=highest, **marks)
        for kind in _OF_NOMAD:
            await self._conditions.report(kind, suspicions.get(kind))
        if ConditionKind.OTHER_CLUSTER in suspicions:
            return
        suspected = [kind for kind in suspicions if not self._conditions.confirmed(kind)]
        if suspected:
            counts_anew = ConditionKind.OLDER_SNAPSHOT in suspected
            self._fleet.apply_presence(listing, counts_anew=counts_anew)
            return
        if listing.index < max(highest, self._fleet.listed_index):
            log.warning("nomad counts from an older index", index=listing.index, written=highest)
            self._fleet.forget_indexes()
        self._fleet.apply_listing(listing)

    async def _known_mark(self, deadline: Deadline) -> str:
        """Return the mark of our cluster, leaving the first one where there is none yet."""
        if self._mark is None or self._shares_database:
            # An operator may have confirmed at another replica that a new one is ours.
            self._mark = await self._store.cluster_mark(self._installation)
        if self._mark is None:
            mark = await self._marks.write(self._installation, secrets.token_hex(16), deadline=deadline)
            await self._store.put_cluster_mark(self._installation, mark)
            self._mark = mark
        return self._mark

    async def accept(self, condition: Condition, deadline: Deadline) -> None:
        """Act on a confirmation: from now on the cluster that is there is ours."""
        if condition.kind is not ConditionKind.OTHER_CLUSTER:
            return
        ours = self._mark or secrets.token_hex(16)
        mark = await self._marks.write(self._installation, ours, deadline=deadline)
        try:
            await self._store.put_cluster_mark(self._installation, mark)
        except UpstreamError as error:
            log.warning("the mark of the cluster was not stored", error=error.message)
            return
        self._mark = mark
        self._fleet.forget_indexes()
