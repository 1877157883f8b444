"""
What must hold after every step, and at the end.

I1 at most one live server of a stack by our doing · I2 no address is given out that is not the stack's own, proven ·
I3 what was accepted happens · I4 a job has a row and a row its job · I5 one password per version, and nowhere but in Vault ·
I6 what is deleted stays deleted · I7 an event for everything accepted · I9 `observed_generation` never goes back ·
I11 not seeing destroys nothing · I12 a stack leaves a node for a drain alone, and comes back when its node takes jobs; nothing
that runs is stopped for a change while Vault is away, without which it could not start. I10
(rollouts) and what else interrupts agents is held by `rollout_invariants`, I13 (data) by `data_invariants`, I14 (people
come first) by `patience`. I8 (quotas are exact) is about the only ones that there are, the places of a rollout: that no more
are taken is looked at as I10, that none is kept by whoever has ended at rest, and one that leaks lets its rollout come to none.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.model.lease import is_reloading
from opencode_lifecycle.model.observation import ClientStatus
from opencode_lifecycle.model.stack import Stack, Status
from opencode_lifecycle.model.states import TAKEN_BACK, Desired, Phase, Reason
from opencode_lifecycle.model.view import UNCHANGED
from simulation.cluster import LIFE, Cluster
from simulation.patience import Patience
from simulation.rollout_invariants import RolloutWatch
from simulation.standing import Standing

if TYPE_CHECKING:
    from simulation.replicas import Replica
    from simulation.schedule import Schedule

_REPLACING = {Reason.STALE, Reason.UNRESPONSIVE, Reason.RECYCLE, Reason.RECREATE}

_CHECKED_BEFORE = {Reason.STALE, Reason.RECYCLE, Reason.RECREATE}
"""What a runtime is stopped for only after it was seen that it could start again."""
_LOOK_AND_STOP = 30.0
"""Seconds that lie between that look and the commit of the stop, at most: a few calls, each with its deadline."""

_OLDEST_ANSWER = 60.0
"""Seconds after which no replica may call a server ready that has ended: what was seen of it longer ago is unknown."""
_MOMENT = 5.0
_OLDEST_MEMORY = 5.0
"""Seconds after which a replica must know of an accepted change, also when it hears of none."""
_OLDEST_WATCH = 400.0
"""Seconds: beyond the longest period of a watch with the longest pause after failures."""


class Violation(AssertionError):
    """An invariant does not hold."""


class Watcher:
    """Looks at every effect as it happens."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.violation: Violation | None = None
        self.rollouts = RolloutWatch(cluster, self._violate)
        self.patience = Patience(cluster, self._violate)
        self.standing = Standing(cluster, self._violate)
        cluster.servers.violate = self._violate
        self._rotations: Counter[tuple[str, int]] = Counter()
        """Of each rotation of a stack that was asked for, how many passwords were written."""
        self._hook("rotate", cluster.vault, self._on_rotate)
        self._generations: dict[tuple[UserId, Any], tuple[int, int]] = {}
        self._hook("deregister", cluster.nomad, self._on_deregister)
        self._hook("register", cluster.nomad, self._on_register)
        self._hook("destroy", cluster.vault, self._on_destroy)
        self._hook("destroy", cluster.nomad.workspaces, self._on_destroy_workspace)
        self._hook("save", cluster.store, self._on_save)
        self._hook("finish_deletion", cluster.store, self._on_finish)
        self._hook("abort_turns", cluster.prober, lambda *, address, **_: self.rollouts.check_abort(address))
        self._holders: dict[str, int] = {}
        """Which life has got which claim."""
        for method in ("claim", "claim_orphan", "claim_rollout"):
            self._note_holder(method)
        for fake, methods in (
            (cluster.nomad, ("register", "deregister")),
            (cluster.vault, ("ensure", "rotate", "destroy")),
            (cluster.nomad.live_files, ("point", "clear")),
            (cluster.nomad.workspaces, ("ensure",)),
        ):
            for method in methods:
                self._hook(method, fake, self._on_effect(method))
        self._watch_allocations()

    def _violate(self, what: str) -> None:
        """Put down what does not hold where raising it would only be what a caller gets."""
        what = what if what.startswith("I") else f"I10: {what}"
        self._cluster.say(what)
        self.violation = self.violation or Violation(what)

    def _hook(self, method: str, fake: Any, check: Any) -> None:
        original = getattr(fake, method)

        async def checked(*args: Any, **kwargs: Any) -> Any:
            if LIFE.get() in self._cluster.dead or LIFE.get() == 0:
                return await original(*args, **kwargs)
            try:
                after = check(*args, **kwargs)
                result = await original(*args, **kwargs)
                if after is not None:
                    after(result)
            except Violation as violation:
                # The product would take it for a defect of its own, write it into its log and go on.
                self.violation = self.violation or violation
                raise
            return result

        setattr(fake, method, checked)

    def _note_holder(self, method: str) -> None:
        store = self._cluster.store
        original = getattr(store, method)

        async def noted(*args: Any, **kwargs: Any) -> Any:
            result = await original(*args, **kwargs)
            for claimed in result if isinstance(result, list) else [result] if result is not None else []:
                self._holders[claimed.token] = LIFE.get()
            return result

        setattr(store, method, noted)

    def holder_of(self, token: str | None) -> int:
        """Return the life that has got the claim; 0 for nobody."""
        return self._holders.get(token, 0) if token is not None else 0

    def _on_effect(self, method: str) -> Any:
        """Hold whoever has an effect on a stack against whose the stack is."""

        def check(what: Any, *_: Any, **__: Any) -> Any:
            # Judged at once after the effect: what counts is whose the stack was then.
            return lambda _: self._check_claim(method, getattr(what, "job_id", what))

        return check

    def _check_claim(self, method: str, job_id: str) -> None:
        store, life = self._cluster.store, LIFE.get()
        now = self._cluster.loop.wall_clock()
        row = self._row_of_job(job_id)
        claims = [
            claim
            for orphan_id, claim in store.orphan_claims.items()
            if orphan_id in store.orphans and store.orphans[orphan_id].find.job_id == job_id
        ]
        if row is not None and row.claim_token is not None:
            claims.append((row.claim_token, row.claim_lapses_at))
        if not any(self._holders.get(token) == life and lapses_at > now for token, lapses_at in claims):
            others = sorted({self._holders.get(token, 0) for token, _ in claims} - {life})
            raise Violation(f"I1: life {life} calls {method} for {job_id}, which is claimed by {others}")

    def _watch_allocations(self) -> None:
        nomad = self._cluster.nomad
        original = nomad._update

        def updated(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            for job_id, allocations in nomad.allocations.items():
                running = [a for a in allocations if a.client_status is ClientStatus.RUNNING]
                if len(running) > 1:
                    self.violation = Violation(f"I1: {len(running)} servers of {job_id} run at once")
                    raise self.violation
            return result

        nomad._update = updated

    def _row_of_job(self, job_id: str) -> Any:
        for row in self._cluster.store.rows.values():
            if row.stack.job_id == job_id:
                return row
        return None

    def _on_register(self, job: Any, **_: Any) -> None:
        row = self._row_of_job(job.job_id)
        if row is None:
            raise Violation(f"I6: {job.job_id} is registered, and has no row")
        self._check_told(job.job_id, "its job", job.specification)
        self.rollouts.check_registration(job, row)

    def _on_deregister(self, job_id: str, **_: Any) -> None:
        row = self._row_of_job(job_id)
        if row is None:
            return
        phase = row.stack.status.phase
        if phase not in {Phase.STOPPING, Phase.FAILED, Phase.DELETING}:
            raise Violation(f"I11: {job_id} is stopped in phase {phase}")

    def _on_rotate(self, job_id: str, **_: Any) -> Any:
        row = self._row_of_job(job_id)
        if row is None or row.stack.intent.rotation <= row.stack.status.rotation_done:
            raise Violation(f"I5: {job_id} gets a new password, and nobody asked for one")
        asked = (f"{job_id} {row.stack.created_at}", row.stack.intent.rotation)

        def written(_: Any) -> None:
            self._rotations[asked] += 1
            if self._rotations[asked] > 1:
                raise Violation(f"I5: {job_id} gets two passwords for one rotation")

        return written

    def _check_told(self, job_id: str, where: str, what: Any) -> None:
        """Hold what is about to be written anywhere but in Vault against the passwords of its stack."""
        item = self._cluster.vault._items.get(job_id)
        passwords = (
            [data["password"] for data in item.versions.values() if data is not None]
            if item is not None
            else []
        )
        text = repr(what) if passwords else ""
        if any(str(password) in text for password in passwords):
            raise Violation(f"I5: a password of {job_id} is written into {where}")

    def _on_destroy(self, job_id: str, *_: Any) -> None:
        row = self._row_of_job(job_id)
        if row is not None and row.stack.intent.desired is not Desired.DELETED:
            raise Violation(f"I11: the secret of {job_id} is destroyed, and nobody deleted it")
        if self._cluster.nomad._live(job_id):
            raise Violation(f"I11: the secret of {job_id} is destroyed under a live allocation")

    def _on_destroy_workspace(self, volume_id: str, *_: Any) -> None:
        for job_id, volume in self._cluster.nomad.workspaces.volumes.items():
            row = self._row_of_job(job_id)
            if volume.volume_id == volume_id and row is not None and not row.stack.intent.delete_workspace:
                raise Violation(f"I11: the data of {job_id} is destroyed, and nobody asked for that")

    def _on_save(self, claimed: Any, progress: Any) -> Any:
        user, now = claimed.stack.user_id, progress.status.observed_generation
        intent, status, before = claimed.stack.intent, progress.status, claimed.stack.status
        asked = intent.desired is not Desired.RUNNING or intent.fresh_start > before.fresh_start_done
        begins = status.phase is Phase.STOPPING and before.phase is not Phase.STOPPING
        # What did not become healthy is taken back: nothing of it was ever handed out. What cannot load its configuration
        # was read anew while nobody used it.
        was_unused = before.runtime is None or is_reloading(before)
        is_taken_back = status.reason in TAKEN_BACK and was_unused
        falls_asleep = (
            status.reason is Reason.IDLE and claimed.stack.intent.group in self._cluster.store.groups
        )
        leaves = status.reason is Reason.NODE_DRAINING
        if begins and before.phase is Phase.RUNNING and status.reason in _CHECKED_BEFORE:
            self._check_that_it_could_start(user, status)
        if begins and leaves and not self._cluster.nodes.was("closed", _node_of(before)):
            raise Violation(f"I12: {user} leaves a node that takes jobs")
        if begins and not (asked or is_taken_back or falls_asleep or leaves or status.reason in _REPLACING):
            raise Violation(
                f"I11: {user} is about to be stopped for {status.reason} in phase {before.phase}, "
                "and nobody asked for it"
            )

        self._check_loss(user, before, status)
        self._check_told(claimed.stack.job_id, "its row", (status.message, status.edits, progress.events))
        if status.phase is Phase.STOPPED and before.phase is not Phase.STOPPED:
            self._check_stopped(claimed.stack.job_id)

        def saved(stack: Any) -> None:
            self._check_address(user, before, status)
            # Replies may overtake one another; the sequence of changes tells in which order the rows were written.
            key = (user, stack.created_at)
            last_seq, last = self._generations.get(key, (0, 0))
            if (stack.change_seq > last_seq and now < last) or (stack.change_seq < last_seq and now > last):
                raise Violation(f"I9: observed_generation of {user} goes back")
            self._generations[key] = max((last_seq, last), (stack.change_seq, now))

        return saved

    def _check_that_it_could_start(self, user: UserId, status: Status) -> None:
        """Hold the stop of what runs, for a change, against whether Vault has what follows on it."""
        cluster = self._cluster
        away_since = cluster.trouble.away.get("vault")
        was_frozen = cluster.frozen or cluster.loop.time() - cluster.thawed_at < _LOOK_AND_STOP
        if away_since is not None and not was_frozen and cluster.loop.time() - away_since > _LOOK_AND_STOP:
            raise Violation(
                f"I12: {user} is stopped for {status.reason} while Vault is away, without which it cannot start"
            )

    def _check_stopped(self, job_id: str) -> None:
        """Hold the word that a stack has stopped against the truth, which only a restored Nomad may change back."""
        cluster = self._cluster
        job = cluster.nomad.jobs.get(job_id)
        runs = (job is not None and not job.seen.stopped) or cluster.nomad._live(job_id)
        if runs and cluster.loop.time() - cluster.restored_at > _OLDEST_ANSWER:
            raise Violation(f"I3: {job_id} is said to be stopped, and runs")

    def _on_finish(self, claimed: Any, **_: Any) -> Any:
        stack = claimed.stack
        self._check_stopped(stack.job_id)

        def finished(_: Any) -> None:
            # What follows is another life, also when it begins in the same moment.
            self._generations.pop((stack.user_id, stack.created_at), None)

        return finished

    def _check_loss(self, user: UserId, before: Any, status: Any) -> None:
        """Hold the verdict that a runtime is lost against the truth, which no failed look may stand in for."""
        runtime = before.runtime
        left = before.phase is Phase.RUNNING and status.phase is not Phase.RUNNING
        if (
            not left
            or status.reason is not Reason.LOST
            or runtime is None
            or "Consul lists" in status.message
        ):
            return
        job = self._cluster.nomad.jobs.get(job_id_of("main", user))
        runs = (
            job is not None
            and not job.seen.stopped
            and any(
                (each.id, each.restarts, each.client_status, each.desired_status)
                == (runtime.allocation_id, runtime.restarts, ClientStatus.RUNNING, "run")
                for each in self._cluster.nomad._live(job_id_of("main", user))
            )
        )
        if runs:
            raise Violation(f"I11: {user} is called lost, and runs")

    def _check_address(self, user: UserId, before: Any, status: Any) -> None:
        """Hold an address, when it is first published, against whose server answers there."""
        runtime, earlier = status.runtime, before.runtime
        if runtime is None or runtime.address is None or runtime == earlier:
            return
        owner = self._cluster.owner.get((runtime.address.host, runtime.address.port))
        if owner is not None and owner != job_id_of("main", user):
            raise Violation(f"I2: {user} is given the address of {owner}")
        self._cluster.servers.check_published(user, status)

    async def look_at_answers(self, replicas: "Sequence[Replica]", users: Sequence[UserId]) -> None:
        """Ask every replica now and then what it would answer from memory, and hold that against the truth."""
        since: dict[tuple[int, object], float] = {}
        while True:
            await asyncio.sleep(4)
            for replica in replicas:
                if replica.plane is None or replica.life == self._cluster.frozen:
                    continue
                for user in users:
                    self._check_answer(replica, user, since)

    def _check_answer(self, replica: "Replica", user: UserId, since: dict[tuple[int, object], float]) -> None:
        cluster, now = self._cluster, self._cluster.loop.time()
        view = replica.plane.provisioning.hot(user, UNCHANGED)
        key = (replica.life, user)
        if view is None:
            since.pop(key, None)
            return
        address = view.stack.status.runtime.address
        ended_at = cluster.ended_at.get((address.host, address.port))
        if ended_at is None or now - ended_at <= _OLDEST_ANSWER:
            since.pop((replica.life, address), None)
        elif now - since.setdefault((replica.life, address), now) > _MOMENT:
            # What was frozen may be wrong in the moment in which it goes on.
            self.violation = self.violation or Violation(
                f"I2: life {replica.life} gives out the address of {user}, whose server ended "
                f"{now - ended_at:.0f} s ago"
            )
        row = cluster.store.rows.get(user)
        if row is not None and row.stack.intent.generation == view.stack.intent.generation:
            since.pop(key, None)
        elif now - since.setdefault(key, now) > _OLDEST_MEMORY:
            self.violation = self.violation or Violation(
                f"I3: life {replica.life} answers for {user} as if nothing had been asked since"
            )

    def accepted(self, user: UserId, meant: AbstractSet[Desired | None] | None) -> None:
        """Hold what was just accepted against the rows; what it *meant* where nobody else was asking."""
        desired = _aim_of(self._cluster.store.rows.get(user))
        if meant is not None and desired not in meant:
            self._violate(f"I3: {user} is to be {desired} in the moment in which {meant} was accepted")
        try:
            self._check_history(user)
        except Violation as violation:
            self.violation = self.violation or violation

    def _check_history(self, user: UserId) -> None:
        """Hold the history against what was just accepted: each generation of a stack has its event."""
        row = self._cluster.store.rows.get(user)
        if row is None:
            return
        generation = row.stack.intent.generation
        for event in reversed(self._cluster.store.events):
            if event.user_id == user and event.generation == generation and event.kind.startswith("stack."):
                return
        raise Violation(f"I7: generation {generation} of {user} is not in the history")

    # --- at rest

    def why_no_rest(self) -> str:
        """Say which stack stays where it should not, once all is well."""
        held = [user for user, row in self._cluster.store.rows.items() if row.stack.is_held_by_node]
        if held:
            return f"I12: {', '.join(held)} should run, is held by its node, and that takes jobs"
        return "it came to no rest"

    def check_rest(self, wanted: Any) -> None:
        """Hold every user's stack, and what is there of it, against what was accepted."""
        cluster = self._cluster
        for user, possible in wanted.items():
            row = cluster.store.rows.get(user)
            desired = row.stack.intent.desired if row is not None else None
            if desired not in possible:
                raise Violation(f"I3: {user} is to be {desired}, and was asked to be one of {possible}")
            self._check_stack(user, row)
        rows = {row.stack.job_id for row in cluster.store.rows.values()}
        for job_id in cluster.nomad.jobs:
            if job_id not in rows:
                raise Violation(f"I4: {job_id} has no row")

    def _check_stack(self, user: UserId, row: Any) -> None:
        cluster = self._cluster
        job_id = job_id_of("main", user)
        live = cluster.nomad._live(job_id)
        if row is None:
            left = [
                name
                for name, there in (
                    ("job", job_id in cluster.nomad.jobs),
                    ("secret", job_id in cluster.vault.job_ids),
                    ("pointer", job_id in cluster.nomad.live_files.pointers),
                    ("allocation", bool(live)),
                )
                if there
            ]
            if left:
                raise Violation(f"I6: of {user}, who was deleted, there is still {', '.join(left)}")
            return
        status = row.stack.status
        if row.stack.intent.desired is Desired.STOPPED and live:
            raise Violation(f"I3: {user} was stopped and still runs")
        if row.stack.intent.desired is not Desired.RUNNING:
            return
        if is_asleep(row.stack):
            if live:
                raise Violation(f"I3: {user} is called asleep, and runs")
            return
        if len(live) != 1:
            raise Violation(f"I3: {user} should run, and has {len(live)} allocations")
        runtime = status.runtime
        if runtime is None or runtime.address is None or runtime.allocation_id != live[0].id:
            raise Violation(f"I2: {user} runs, and its address is not that of its allocation")
        server = cluster.prober.servers.get((runtime.address.host, runtime.address.port))
        if server is None or cluster.owner.get((runtime.address.host, runtime.address.port)) != job_id:
            raise Violation(f"I2: the address of {user} is not its own")
        if (oddity := cluster.servers.why_odd((runtime.address.host, runtime.address.port))) is not None:
            raise Violation(f"I2: the server of {user} is {oddity}, and is left so")
        if server.hangs:
            raise Violation(f"I3: the server of {user} answers nothing, and is left so")
        if server.password != cluster.vault.stored(job_id, runtime.secret_version)["password"]:
            raise Violation(f"I5: the server of {user} has another password than its version")
        if row.stack.intent.rotation > status.rotation_done:
            raise Violation(f"I3: the password of {user} was never rotated")

    def check_watches(self, plane: ControlPlane | None) -> None:
        """Hold every watch to having seen something not long ago: one that gave up sees nothing any more."""
        if plane is None:
            raise Violation("G1: there is no control plane")
        for name in (
            "nomad_listing",
            "nomad_nodes",
            "nomad_events",
            "probes",
            "vault_versions",
            "consul_comparison",
            "orphans",
        ):
            age = plane.oversight.watch_ages()[name]
            if age is None or age > _OLDEST_WATCH:
                raise Violation(f"G1: the watch {name} has seen nothing for {age} s")

    def check_memory(self, plane: ControlPlane | None) -> None:
        """Hold what a replica knows at rest against the rows."""
        if plane is None:
            return
        rows = self._cluster.store.rows
        for known in plane.fleet:
            row = rows.get(known.stack.user_id)
            if row is None or row.stack != known.stack:
                raise Violation(f"I4: memory of {known.stack.user_id} is not what the row says")
        if len(plane.fleet) != len(rows):
            raise Violation("I4: a replica does not know of every row")

    def check_secrets(self) -> None:
        """Look for passwords where none may be."""
        cluster = self._cluster
        passwords = [
            str(data["password"])
            for item in cluster.vault._items.values()
            for data in item.versions.values()
            if data is not None
        ]
        jobs = [job.specification for job in cluster.nomad.jobs.values()]
        for where, what in (
            ("rows", cluster.store.rows),
            ("events", cluster.store.events),
            ("operations", cluster.store.operations),
            ("jobs", jobs),
            ("variables", cluster.nomad.live_files.pointers),
        ):
            text = repr(what)
            if any(password in text for password in passwords):
                raise Violation(f"I5: a password is in {where}")


def _aim_of(row: Any) -> Desired | None:
    """Return what is to become of a stack in the end; None where it is to be gone."""
    if row is None or row.stack.intent.desired is not Desired.DELETED:
        return row.stack.intent.desired if row is not None else None
    return Desired.RUNNING if row.stack.intent.successor is not None else None


def _node_of(status: Status) -> str | None:
    return status.workspace.node_id if status.workspace is not None else None


def is_asleep(stack: Stack) -> bool:
    """Whether it was stopped since nobody used it, and nobody has asked for it since."""
    return stack.status.phase is Phase.STOPPED and stack.status.reason is Reason.IDLE


def check_end(schedule: "Schedule") -> None:
    schedule.watcher.check_rest(schedule.wanted)
    schedule.watcher.rollouts.check_rest()
    for replica in schedule.replicas:
        schedule.watcher.check_watches(replica.plane)
        schedule.watcher.check_memory(replica.plane)
    schedule.watcher.check_secrets()
