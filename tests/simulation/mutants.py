"""
Planted bugs, each of a class that other control planes had (G1 to G30 of the list of bug classes), and of our own.

A simulator that finds none of them proves nothing. Each is planted into the product's own objects for one schedule after
another until an invariant does not hold.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, islice

from opencode_lifecycle.model.proof import ProofResult
from simulation import (
    crashes,
    planted,
    planted_for_two,
    planted_in_rollouts,
    planted_in_servers,
    planted_in_time,
    planted_in_workspaces,
    scenarios,
)
from simulation.schedule import Schedule, Script


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug, of class *of*. With two *replicas* it needs both to do harm."""

    of: str
    what: str
    plant: Callable[[], AbstractContextManager[None]]
    replicas: int = 1
    told: bool = True
    """Whether told faults and points are tried as well, which may show something else of it than what it is about."""
    of_fleets: bool = False
    """Whether it needs a fleet with rollouts to do harm."""
    also_without: str = ""
    """The guard that is taken away with it, since it alone would hold the same."""
    most: int = 2000
    """Schedules that must be enough: several times as many as it took when it was planted."""


@dataclass(frozen=True, slots=True)
class Caught:
    after: int
    """Schedules."""
    by: str
    """Where, and the invariant that did not hold."""


MUTANTS = (
    Mutant("G1", "a watch that failed once is never run again", planted.watch_gives_up),
    Mutant("G2", "the event stream is trusted, and nothing is listed", planted.stream_is_trusted_alone),
    Mutant(
        "G2",
        "what other replicas write is not followed",
        planted_for_two.the_changes_of_others_are_not_followed,
        replicas=2,
    ),
    Mutant(
        "G2",
        "what another replica removed is kept in memory",
        planted_for_two.what_was_removed_elsewhere_is_kept,
        replicas=2,
    ),
    Mutant(
        "G3", "a look or a listing that failed counts as absent", planted.a_look_that_failed_counts_as_absent
    ),
    Mutant(
        "G3",
        "what a listing lacks is gone, without a look",
        planted.what_a_listing_lacks_is_gone_without_a_look,
    ),
    Mutant(
        "G3",
        "an allocation that a listing lacks has ended",
        planted.an_allocation_that_a_listing_lacks_has_ended,
    ),
    Mutant("G4", "a stop that failed counts as done", planted.stop_that_failed_counts_as_done),
    Mutant(
        "G4",
        "a secret whose destruction failed counts as gone",
        planted.a_destruction_that_failed_counts_as_done,
    ),
    Mutant(
        "G5",
        "what is to be done lives in memory alone",
        planted.work_lives_in_memory_alone,
        also_without="a row says when it is due; at start everything is compared",
    ),
    Mutant("G5", "what has no row is left lying", planted.what_has_no_row_is_left),
    Mutant(
        "G5",
        "who is on the way when a driver dies is forgotten",
        planted_in_rollouts.who_is_on_the_way_is_forgotten_with_the_driver,
        of_fleets=True,
    ),
    Mutant("G6", "a start has no deadline", planted.a_start_has_no_deadline),
    Mutant("G6", "a stop waits until the start has ended", planted.a_stop_waits_for_the_start),
    Mutant(
        "G6",
        "what is held by its node is forgotten",
        planted_in_workspaces.what_is_held_by_its_node_is_forgotten,
        of_fleets=True,
    ),
    Mutant("G7", "a call has no deadline", planted.a_call_has_no_deadline),
    Mutant("G8", "a claim is not looked at", planted_for_two.a_claim_is_not_looked_at, replicas=2),
    Mutant("G8", "a claim has no owner", planted_for_two.a_claim_has_no_owner, replicas=2),
    Mutant(
        "G8",
        "a claim is not held on to before an effect",
        planted_for_two.a_claim_is_not_held_on_to,
        replicas=2,
    ),
    Mutant("G8", "whoever has lost a claim goes on", planted_for_two.a_lost_claim_is_ignored, replicas=2),
    Mutant(
        "G8",
        "the claim is asked for before the row is saved",
        planted_for_two.the_claim_is_asked_for_before_the_row_is_saved,
        replicas=2,
    ),
    Mutant(
        "G8",
        "a driver that was overtaken goes on",
        planted_in_rollouts.whoever_was_overtaken_goes_on,
        of_fleets=True,
        replicas=2,
    ),
    Mutant("G9", "a runtime that is gone is not missed", planted.a_lost_runtime_is_not_missed),
    Mutant("G10", "what Nomad refuses for good counts as an outage", planted.a_refusal_counts_as_an_outage),
    Mutant(
        "G10",
        "a revision that was taken back is tried again",
        planted_in_rollouts.what_was_taken_back_is_tried_again,
        of_fleets=True,
    ),
    Mutant("G11", "a recreate is not remembered as done", planted.a_recreate_is_done_for_ever),
    Mutant("G11", "a rotation is not remembered as done", planted.a_rotation_is_done_for_ever),
    Mutant(
        "G11",
        "an order that was not written down is given again",
        planted_in_rollouts.an_order_is_not_found_in_the_row,
        of_fleets=True,
    ),
    Mutant(
        "G12",
        "the sweeper acts on rows that it read before",
        planted.the_sweeper_acts_on_an_old_decision,
        told=False,
        most=6000,
    ),
    Mutant(
        "G12",
        "a runtime is stopped by an earlier look at its agent",
        planted_in_rollouts.an_earlier_look_lets_a_runtime_be_stopped,
        of_fleets=True,
    ),
    Mutant(
        "G12",
        "a stop is saved without a look at the lease",
        planted_in_rollouts.a_stop_is_saved_without_a_look_at_the_lease,
        of_fleets=True,
    ),
    Mutant(
        "G12",
        "a lease is given without a look at the stop",
        planted_in_rollouts.a_lease_is_given_without_a_look_at_the_stop,
        of_fleets=True,
    ),
    Mutant(
        "G14",
        "who asks is served after every order of a rollout",
        planted_in_workspaces.who_asks_is_served_after_every_order,
        of_fleets=True,
    ),
    Mutant(
        "G15",
        "places that are given in a turn are not counted in it",
        planted_in_rollouts.places_given_in_a_turn_are_not_counted_in_it,
        of_fleets=True,
    ),
    Mutant(
        "G17",
        "the places of a rollout are counted, and given back by who was moved",
        planted_in_rollouts.a_place_is_counted_and_given_back_by_who_was_moved,
        of_fleets=True,
    ),
    Mutant(
        "G18",
        "what was seen before our own last write decides",
        planted.what_was_seen_before_our_own_write_decides,
        also_without="the index of a registration; the look before an absence is believed",
    ),
    Mutant("G19", "names that prefix one another meet", planted.names_that_prefix_one_another_meet),
    Mutant("G20", "a start does not wait for the end of what ran", planted.a_start_does_not_wait_for_the_end),
    Mutant(
        "G21",
        "secret and volume go before the allocation has ended",
        planted.the_volume_goes_before_its_allocation,
    ),
    Mutant("G22", "what Consul lists is not compared", planted.consul_is_not_compared),
    Mutant(
        "G23",
        "what waits for Vault is not tried again",
        planted.what_waits_for_vault_is_not_tried_again,
        also_without="a stack is compared whenever something is seen of it",
    ),
    Mutant(
        "G24",
        "a stack that is gone is waited for",
        planted_in_rollouts.who_is_gone_is_waited_for,
        of_fleets=True,
    ),
    Mutant(
        "G24",
        "the claim of a driver that died never lapses",
        planted_in_rollouts.the_claim_of_a_dead_driver_never_lapses,
        of_fleets=True,
        replicas=2,
    ),
    Mutant(
        "G24",
        "a gate that can say nothing passes",
        planted_in_rollouts.a_gate_that_can_say_nothing_passes,
        of_fleets=True,
    ),
    Mutant(
        "G24",
        "a pause is not looked at",
        planted_in_rollouts.a_pause_is_not_looked_at,
        of_fleets=True,
    ),
    Mutant(
        "own",
        "a change is answered that was not written down",
        planted_in_time.a_change_is_answered_and_not_written,
    ),
    Mutant(
        "own",
        "what failed is tried again after a quarter of an hour",
        planted_in_time.it_is_tried_again_late,
        told=False,
    ),
    Mutant(
        "own",
        "what has no row is looked for once in a quarter of an hour",
        planted_in_time.what_has_no_row_is_seen_late,
    ),
    Mutant(
        "own",
        "what has ended is missed after minutes",
        planted_in_time.what_has_ended_is_missed_late,
        told=False,
        most=6000,
    ),
    Mutant(
        "own",
        "a password is told with why a server is not proven",
        planted_in_servers.a_password_is_told_with_why_it_is_not_proven,
    ),
    Mutant("G25", "a server that answers nothing is left so", planted.a_wedge_is_not_replaced),
    Mutant(
        "G26",
        "the claim of a dead replica never lapses",
        planted_for_two.the_claim_of_the_dead_never_lapses,
        replicas=2,
    ),
    Mutant("G27", "a password is written into the history", planted.a_password_is_written_into_the_history),
    Mutant("G30", "what fails is tried again without a pause", planted.it_is_tried_again_without_a_pause),
    Mutant(
        "G30",
        "a replica that was told once asks for the claim without a pause",
        planted_in_rollouts.whoever_was_told_once_asks_without_a_pause,
        of_fleets=True,
        replicas=2,
    ),
    Mutant(
        "own", "the proof of an earlier run counts for a later one", planted.an_earlier_run_proves_a_later_one
    ),
    *(
        Mutant("own", what, plant)
        for what, plant in (
            ("an open server counts as proven", planted_in_servers.counts_as_proven(ProofResult.OPEN)),
            (
                "a server of another version counts as proven",
                planted_in_servers.counts_as_proven(ProofResult.WRONG_VERSION),
            ),
            (
                "a server that refuses its password counts as proven",
                planted_in_servers.counts_as_proven(ProofResult.REFUSES_PASSWORD),
            ),
            ("a server that opens itself is left so", planted_in_servers.what_opens_itself_is_left_so),
            ("an open server is started again", planted_in_servers.an_open_server_is_started_again),
            (
                "why a server is not proven is not told",
                planted_in_servers.why_it_is_not_proven_is_not_told,
            ),
            (
                "it is stopped for a change while Vault is away",
                planted_in_servers.it_is_stopped_for_a_change_while_vault_is_away,
            ),
        )
    ),
    *(
        Mutant("own", what, plant, of_fleets=True)
        for what, plant in (
            ("a drain waits for no agent", planted_in_workspaces.a_drain_waits_for_no_agent),
            ("a drain is forced a minute early", planted_in_workspaces.a_drain_is_forced_a_minute_early),
            ("a drain looks at no lease", planted_in_workspaces.a_drain_looks_at_no_lease),
            (
                "a drain is forced by an old look at the node",
                planted_in_servers.it_is_forced_by_an_old_look_at_its_node,
            ),
            (
                "what could not start again is stopped for a change",
                planted_in_workspaces.what_could_not_start_again_is_restarted,
            ),
            (
                "an older version starts on newer data",
                planted_in_workspaces.an_older_version_starts_on_newer_data,
            ),
            (
                "data goes back whatever was written to it",
                planted_in_workspaces.what_was_written_is_not_looked_for,
            ),
            (
                "data that was handed out goes back with the version that is taken back",
                planted_in_workspaces.what_was_handed_out_counts_as_never_used,
            ),
            (
                "a snapshot is named without an order",
                planted_in_workspaces.a_snapshot_is_named_without_an_order,
            ),
            (
                "what an entrypoint reports is not read",
                planted_in_workspaces.what_an_entrypoint_reports_is_not_read,
            ),
            ("every snapshot is news at every look", planted_in_workspaces.every_snapshot_is_news),
        )
    ),
)


_SHOWN_BY = {
    "what has ended is missed after minutes": "seed 1270",
    "a stop that failed counts as done": "stop: fails before nomad.deregister number 1",
    "a secret whose destruction failed counts as gone": "delete: fails before vault.destroy number 1",
    "a revision that was taken back is tried again": "R17, seed 0",
    "a rotation is not remembered as done": "rotate: dies after database.decide number 1",
    "the sweeper acts on rows that it read before": "seed 1811",
    "a stack that is gone is waited for": "seed 176",
}
"""Of those that need hundreds of schedules, the one that shows it."""


def is_caught(mutant: Mutant) -> bool:
    """
    Tell whether `hunt` would find it, by a short cut: the schedule that showed it last comes first.

    Where another one shows it by now, this only takes longer.
    """
    shown_by = _SHOWN_BY.get(mutant.what)
    if shown_by is not None:
        for where, schedule in islice(_schedules(mutant), mutant.most):
            if where == shown_by:
                with mutant.plant():
                    outcome = schedule().run()
                if outcome.violation is not None:
                    return True
                break
    return hunt(mutant) is not None


def hunt(mutant: Mutant, *, most: int | None = None) -> Caught | None:
    """Return when and how the mutant was caught; None when none of *most* schedules did."""
    for number, (where, schedule) in enumerate(islice(_schedules(mutant), most or mutant.most), start=1):
        with mutant.plant():
            outcome = schedule().run()
        if outcome.violation is not None:
            return Caught(number, f"{where}: {outcome.violation}")
    return None


def _schedules(mutant: Mutant) -> Iterator[tuple[str, Callable[[], Schedule]]]:
    """
    Yield the told faults first, then every point to die or to fail at, then seeds without end.

    With two replicas, where it takes a rare order of things in a few stories, the told faults alternate with the seeds.
    """
    if mutant.told and mutant.replicas == 1:
        for seed in range(_SEEDS_PER_SCENARIO):
            yield from _told(seed, mutant)
        for point in _points(mutant.of_fleets):
            yield str(point), partial(Schedule, 0, point.script())
    has_rollouts = True if mutant.of_fleets else None
    for seed in count():
        if mutant.replicas > 1:
            yield from _told(seed, mutant)
        script = Script(replicas=mutant.replicas, has_rollouts=has_rollouts)
        yield f"seed {seed}", partial(Schedule, seed, script)


def _told(seed: int, mutant: Mutant) -> Iterator[tuple[str, Callable[[], Schedule]]]:
    for each in scenarios.SCENARIOS:
        if (each.replicas, each.has_rollouts) == (mutant.replicas, mutant.of_fleets):
            yield f"{each.fault}, seed {seed}", partial(Schedule, seed, each.script())


@cache
def _points(of_fleets: bool) -> list[crashes.Point]:  # noqa: FBT001 - one of two kinds
    return [point for point in crashes.quick_points() if point.is_of_a_fleet is of_fleets]


_SEEDS_PER_SCENARIO = 5
