"""All that brings stacks to where they should be, wired to its neighbours."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.observing.data_reports import DataReports
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.lifecycle.parameters import Parameters
from opencode_lifecycle.lifecycle.reconciling.aims import Aims
from opencode_lifecycle.lifecycle.reconciling.dispatcher import Dispatcher
from opencode_lifecycle.lifecycle.reconciling.effects import Effects
from opencode_lifecycle.lifecycle.reconciling.reconciler import Reconciler
from opencode_lifecycle.lifecycle.reconciling.runtime_effects import RuntimeEffects
from opencode_lifecycle.lifecycle.reconciling.work import Desk
from opencode_lifecycle.lifecycle.releases import Releases


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    aims: Aims
    desk: Desk
    effects: Effects
    dispatcher: Dispatcher


def workshop_among(
    neighbours: Neighbours,
    p: Parameters,
    *,
    fleet: Fleet,
    releases: Releases,
    vouching: Vouching,
    recent_passwords: RecentPasswords,
    idle_stop_after: Callable[[str], timedelta | None],
    reports: DataReports,
) -> Workshop:
    """Return workers that take up what is due, and what they work with."""
    store, now = neighbours.store, p.clock
    aims = Aims(releases=releases, site=p.site)
    desk = Desk(
        fleet=fleet,
        aims=aims,
        installation=p.site.installation,
        when_stale=p.when_stale,
        idle_stop_after=idle_stop_after,
    )
    effects = Effects(
        orchestrator=neighbours.orchestrator,
        workspaces=neighbours.workspaces,
        live_files=neighbours.live_files,
        passwords=neighbours.passwords,
        recent_passwords=recent_passwords,
        catalog=neighbours.catalog,
        reports=reports,
        of_runtime=RuntimeEffects(
            orchestrator=neighbours.orchestrator,
            reports=reports,
            history=store,
            vouching=vouching,
            fleet=fleet,
            now=now,
        ),
        releases=releases,
        aims=aims,
        desk=desk,
        fleet=fleet,
        site=p.site,
        limits=p.limits,
        now=now,
        upstream_timeout=p.upstream_timeout,
    )
    reconciler = Reconciler(
        stacks=store,
        aims=aims,
        effects=effects,
        fleet=fleet,
        desk=desk,
        limits=p.limits,
        claim_lifetime=p.claim_lifetime,
        now=now,
        random=p.random,
    )
    dispatcher = Dispatcher(
        stacks=store,
        reconciler=reconciler,
        fleet=fleet,
        desk=desk,
        limits=p.limits,
        now=now,
        workers=p.workers,
        claim_lifetime=p.claim_lifetime,
    )
    return Workshop(aims=aims, desk=desk, effects=effects, dispatcher=dispatcher)
