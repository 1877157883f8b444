"""Where the service's CPU time goes: what each named coroutine uses of the main thread, and what each thread uses."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine, Generator
from functools import wraps
from pathlib import Path
from typing import Any

from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.nomad.connection import NomadConnection
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.adapters.vault.password_store import VaultPasswordStore
from opencode_lifecycle.api.stacks import StackHandlers
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.proving import Proving
from opencode_lifecycle.lifecycle.reconciling.dispatcher import Dispatcher
from opencode_lifecycle.lifecycle.reconciling.reconciler import Reconciler
from opencode_lifecycle.lifecycle.rollouts.driver import RolloutDriver

_COROUTINES = (
    (StackHandlers, "ensure", "api: ensure"),
    (Database, "decide", "database: intent"),
    (Database, "claim", "database: claim"),
    (Database, "save", "database: save"),
    (VaultPasswordStore, "ensure", "vault: put"),
    (VaultPasswordStore, "read", "vault: read"),
    (ConsulServiceCatalog, "instances", "consul: instances"),
    (Proving, "_look", "proving: look"),
    (Nomad, "render", "nomad: parse"),
    (Nomad, "register", "nomad: register"),
    (Nomad, "observe", "nomad: observe"),
    (Reconciler, "reconcile", "reconcile: whole pass"),
    (NomadConnection, "get", "nomad: any GET"),
    (NomadConnection, "put", "nomad: any PUT"),
)
_FUNCTIONS = (
    (Fleet, "apply", "fleet: event"),
    (Dispatcher, "attend", "dispatcher: attend"),
    (RolloutDriver, "_next_turn", "rollout: turn"),
)


class _Metered:
    """Steps a coroutine and adds up the time of the thread that its steps take."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], meter: "Meter", name: str) -> None:
        self._coroutine = coroutine
        self._meter = meter
        self._name = name

    def __await__(self) -> Generator[Any, Any, Any]:
        value, error = None, None
        while True:
            begun = time.thread_time()
            try:
                waits_for = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                self._meter.seconds[self._name] += time.thread_time() - begun
            try:
                value, error = (yield waits_for), None
            except BaseException as raised:  # noqa: BLE001 - handed on to where it belongs
                value, error = None, raised


class Meter:
    """Once installed, it stays: a metered service is not one whose rate is measured."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.times: Counter[str] = Counter()

    def install(self) -> None:
        for owner, attribute, name in _COROUTINES:
            setattr(owner, attribute, self._coroutine(getattr(owner, attribute), name))
        for owner, attribute, name in _FUNCTIONS:
            setattr(owner, attribute, self._function(getattr(owner, attribute), name))

    def report(self) -> dict[str, Any]:
        """Return milliseconds and counts by name. What contains another name contains its time."""
        return {
            "main thread": {
                name: {"ms": round(seconds * 1000, 1), "times": self.times[name]}
                for name, seconds in sorted(self.seconds.items())
            },
            "threads": _threads(),
        }

    def _coroutine(self, function: Any, name: str) -> Any:
        @wraps(function)
        async def metered(*arguments: Any, **named: Any) -> Any:
            self.times[name] += 1
            return await _Metered(function(*arguments, **named), self, name)

        return metered

    def _function(self, function: Any, name: str) -> Any:
        @wraps(function)
        def metered(*arguments: Any, **named: Any) -> Any:
            self.times[name] += 1
            begun = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[name] += time.thread_time() - begun

        return metered


def _threads() -> dict[str, float]:
    """Return CPU milliseconds by kind of thread."""
    used: Counter[str] = Counter()
    for thread in threading.enumerate():
        path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
        if path.exists():
            kind = thread.name.rstrip("0123456789").rstrip("_-")
            used[kind] += int(path.read_text().split()[0]) / 1e6
    return {name: round(milliseconds, 1) for name, milliseconds in used.items()}
