"""All that sees, wired to its neighbours: every watch, prober and sweep, each of which tells the fleet what it saw."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from opencode_lifecycle.lifecycle.braking.admission import Admission
from opencode_lifecycle.lifecycle.braking.conditions import Conditions
from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.observing.busy_watch import BusyWatch
from opencode_lifecycle.lifecycle.observing.cross_checking import CatalogWatch
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.observing.node_watch import NodeWatch
from opencode_lifecycle.lifecycle.observing.proving import Proving, SteadyProbes
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.sweeping import SecretSweep, UsageSweep
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.lifecycle.observing.watching import NomadWatch, StoreWatch
from opencode_lifecycle.lifecycle.parameters import Parameters
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.stack import Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Observers:
    admission: Admission
    nomad: NomadWatch
    nodes: NodeWatch
    changes: StoreWatch
    proving: Proving
    probes: SteadyProbes
    busy: BusyWatch
    secrets: SecretSweep
    usage: UsageSweep
    catalog: CatalogWatch

    def consider(self, known: Known) -> None:
        """Take in that something of the stack changed."""
        self.proving.consider(known)
        self.busy.consider(known)

    def forget(self, user_id: UserId) -> None:
        self.proving.forget(user_id)
        self.busy.forget(user_id)

    def loops(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Return what is to be kept going, by the name under which it is reported."""
        return {
            "nomad listing": self.nomad.list_periodically,
            "nomad nodes": self.nodes.round,
            "steady probes": self.probes.round,
            "busy watch": self.busy.round,
            "vault versions": self.secrets.round,
            "usage": self.usage.round,
            "consul checks": self.catalog.follow_once,
            "consul comparison": self.catalog.compare_periodically,
        }

    async def close(self) -> None:
        """End what runs beside the loops."""
        await self.proving.close()
        await self.probes.close()
        await self.busy.close()


def observers_among(
    neighbours: Neighbours,
    p: Parameters,
    *,
    fleet: Fleet,
    conditions: Conditions,
    vouching: Vouching,
    passwords: RecentPasswords,
    load_releases: Callable[[Stack], Awaitable[None]],
) -> Observers:
    """Return everything that looks, by what the parameters say of how often."""
    now, installation = p.clock, p.site.installation
    admission = Admission(
        fleet=fleet,
        conditions=conditions,
        marks=neighbours.cluster_mark,
        store=neighbours.store,
        installation=installation,
        shares_database=p.shares_database,
    )
    nodes = NodeWatch(
        orchestrator=neighbours.orchestrator,
        fleet=fleet,
        interval=p.resync_interval,
        timeout=p.upstream_timeout,
    )
    nomad = NomadWatch(
        orchestrator=neighbours.orchestrator,
        admission=admission,
        fleet=fleet,
        on_nodes=nodes.hint,
        interval=p.resync_interval,
        timeout=p.observation_max_age,
    )
    probes = SteadyProbes(
        fleet=fleet,
        conditions=conditions,
        prober=neighbours.prober,
        vouching=vouching,
        now=now,
        interval=p.liveness_interval,
        patience=p.upstream_timeout,
    )
    return Observers(
        admission=admission,
        nomad=nomad,
        nodes=nodes,
        changes=StoreWatch(
            stacks=neighbours.store,
            feed=neighbours.store,
            load_releases=load_releases,
            fleet=fleet,
            shares_database=p.shares_database,
        ),
        proving=Proving(
            fleet=fleet,
            prober=neighbours.prober,
            passwords=passwords,
            catalog=neighbours.catalog,
            now=now,
            upstream_timeout=p.upstream_timeout,
        ),
        probes=probes,
        busy=BusyWatch(
            fleet=fleet,
            events=neighbours.events,
            vouching=vouching,
            now=now,
            random=p.random,
            timeout=p.upstream_timeout,
        ),
        secrets=SecretSweep(
            fleet=fleet,
            conditions=conditions,
            passwords=neighbours.passwords,
            installation=installation,
            interval=p.secret_sweep_interval,
            timeout=p.upstream_timeout,
        ),
        usage=UsageSweep(
            fleet=fleet,
            orchestrator=neighbours.orchestrator,
            interval=p.usage_interval,
            timeout=p.upstream_timeout,
        ),
        catalog=CatalogWatch(
            fleet=fleet,
            catalog=neighbours.catalog,
            look_now=probes.look_now,
            list_once=nomad.list_once,
            installation=installation,
            interval=p.comparison_interval,
            timeout=p.observation_max_age,
        ),
    )
