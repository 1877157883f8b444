"""What the supervisor last knew, in a file that `up` and `status` read. Written whole or not at all."""

import time
from dataclasses import dataclass, field
from typing import Any

from opencode_lifecycle.cluster.layout import Layout, read_json, write_json
from opencode_lifecycle.cluster.processes import Process

STARTING, RUNNING, FAILED, STOPPING = "starting", "running", "failed", "stopping"


@dataclass(slots=True, kw_only=True)
class ServerState:
    """One supervised server. `state` is `waiting`, `running`, `restarting` or `held`."""

    state: str = "waiting"
    process: Process | None = None
    restarts: int = 0
    last_exit: str = ""
    since: float = field(default_factory=time.time)


@dataclass(slots=True, kw_only=True)
class State:
    """The supervisor, the phase it is in, and its servers in the order in which they were started."""

    supervisor: Process | None = None
    phase: str = STARTING
    step: str = ""
    error: str = ""
    servers: dict[str, ServerState] = field(default_factory=dict)

    def save(self, layout: Layout) -> None:
        write_json(
            layout.state,
            {
                "supervisor": _process_to_json(self.supervisor),
                "phase": self.phase,
                "step": self.step,
                "error": self.error,
                "servers": {
                    name: {
                        "state": server.state,
                        "process": _process_to_json(server.process),
                        "restarts": server.restarts,
                        "last_exit": server.last_exit,
                        "since": server.since,
                    }
                    for name, server in self.servers.items()
                },
            },
        )

    def is_supervised(self) -> bool:
        return self.supervisor is not None and self.supervisor.is_alive()


def load(layout: Layout) -> State:
    """Return the last saved state; an empty one where there is none."""
    value = read_json(layout.state)
    if value is None:
        return State()
    return State(
        supervisor=_process_from_json(value["supervisor"]),
        phase=value["phase"],
        step=value["step"],
        error=value["error"],
        servers={
            name: ServerState(**{**server, "process": _process_from_json(server["process"])})
            for name, server in value["servers"].items()
        },
    )


def _process_to_json(process: Process | None) -> dict[str, Any] | None:
    return None if process is None else process.to_json()


def _process_from_json(value: dict[str, Any] | None) -> Process | None:
    return None if value is None else Process.from_json(value)
