"""How the cluster is: what is recorded, compared with what runs and answers."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opencode_lifecycle.cluster import bootstrap_nomad, loopback
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster import state as state_file
from opencode_lifecycle.cluster.layout import SERVERS, Layout
from opencode_lifecycle.cluster.processes import bearing
from opencode_lifecycle.cluster.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """
    One server. `state` is `running` when it works, `not-ready` when its process lives but it does not work yet or any
    more, `restarting` between two tries, `held`, or `down`.
    """

    name: str
    state: str
    address: str
    pid: int | None
    seconds: int | None
    restarts: int
    last_exit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """`processes` counts what the servers themselves have started: runtimes and what belongs to them."""

    phase: str
    error: str
    servers: Sequence[ServerStatus]
    processes: int
    is_root: bool

    @property
    def works(self) -> bool:
        return self.phase == state_file.RUNNING and all(server.state == "running" for server in self.servers)

    def to_json(self) -> dict[str, Any]:
        return {
            "works": self.works,
            "phase": self.phase,
            "error": self.error,
            "servers": [
                {
                    "name": server.name,
                    "state": server.state,
                    "address": server.address,
                    "pid": server.pid,
                    "seconds": server.seconds,
                    "restarts": server.restarts,
                    "last_exit": server.last_exit,
                }
                for server in self.servers
            ],
            "processes": self.processes,
            "limits_enforced": self.is_root,
        }


def look(layout: Layout) -> ClusterStatus | None:
    """Return how the cluster in *layout* is, or None where there is none."""
    record = record_file.load(layout)
    if record is None:
        return None
    state = state_file.load(layout)
    names = [name for name in SERVERS if name != "service" or not record.servers_only]
    servers = [_server(name, state.servers.get(name), layout, record) for name in names]
    own = {server.pid for server in servers}
    phase = state.phase if state.is_supervised() or state.phase == state_file.FAILED else "stopped"
    if phase == "stopped" and any(server.pid for server in servers):
        phase = "unsupervised"
    return ClusterStatus(
        phase=phase,
        error=state.error,
        servers=servers,
        processes=sum(process.pid not in own for process in bearing(record.id)),
        is_root=os.geteuid() == 0,
    )


def _server(name: str, known: state_file.ServerState | None, layout: Layout, record: Record) -> ServerStatus:
    alive = known is not None and known.process is not None and known.process.is_alive()
    if known is None:
        state = "down"
    elif alive:
        state = "running" if works(name, layout, record) else "not-ready"
    else:
        state = known.state if known.state in {"restarting", "held"} else "down"
    return ServerStatus(
        name=name,
        state=state,
        address=record.address(name),
        pid=known.process.pid if known is not None and known.process is not None and alive else None,
        seconds=int(time.time() - known.since) if known is not None and alive else None,
        restarts=known.restarts if known is not None else 0,
        last_exit=known.last_exit if known is not None else "",
    )


def works(server: str, layout: Layout, record: Record) -> bool:
    """Tell whether *server* does its work: has a leader, is unsealed, has a node that takes allocations."""
    ports = record.ports
    match server:
        case "consul":
            return bool(loopback.ask(ports["consul_http"], "/v1/status/leader"))
        case "vault":
            return loopback.ask(ports["vault_api"], "/v1/sys/health") is not None
        case "nomad":
            return bool(
                loopback.ask(ports["nomad_http"], "/v1/status/leader")
            ) and bootstrap_nomad.node_is_ready(record, record_file.load_or_make_secrets(layout))
        case _:
            return loopback.answers(ports["service"], "/livez")
