"""Ports: chosen at the first start, kept for the life of the data."""

import contextlib
import secrets
import socket
from collections.abc import Callable, Mapping
from typing import Final

from opencode_lifecycle.cluster.errors import ClusterError, PortTaken
from opencode_lifecycle.cluster.processes import holder_of

CUSTOMARY: Final[Mapping[str, int]] = {
    "consul_http": 8500,
    "consul_server": 8300,
    "consul_serf": 8301,
    "vault_api": 8200,
    "vault_cluster": 8201,
    "nomad_http": 4646,
    "nomad_rpc": 4647,
    "nomad_serf": 4648,
    "service": 8700,
}
"""Every port of a cluster, with the number that people know it by."""

FIRST, LAST = 10000, 19999
"""Where others are drawn from: below Nomad's dynamic ports and below the range of outgoing connections."""
CUSTOMARY_DYNAMIC: Final = (20000, 25999)
PRIVATE_DYNAMIC: Final = tuple((first, first + 999) for first in range(26000, 32000, 1000))
_DRAWS: Final = 2000


def is_free(port: int) -> bool:
    """Tell whether *port* of the loopback interface can be listened on, for TCP and UDP."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with contextlib.closing(socket.socket(socket.AF_INET, kind)) as trial:
            if kind is socket.SOCK_STREAM:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def choose(*, private: bool, free: Callable[[int], bool] = is_free) -> dict[str, int]:
    """
    Choose all ports of a new cluster: the customary ones where they are free, unless *private*, else random ones.

    A *private* cluster keeps off the customary ports, so that people's own servers do not meet it.
    """
    chosen: dict[str, int] = {}
    for name, customary in CUSTOMARY.items():
        chosen[name] = customary if not private and free(customary) else _draw(free, set(chosen.values()))
    return chosen


def _draw(free: Callable[[int], bool], taken: set[int]) -> int:
    for _ in range(_DRAWS):
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)
        if port not in taken and free(port):
            return port
    raise ClusterError(f"No port between {FIRST} and {LAST} is free on 127.0.0.1.")


def choose_dynamic(*, private: bool) -> tuple[int, int]:
    """Choose the range that Nomad gives its jobs ports from; two clusters on one machine should not share one."""
    if not private:
        return CUSTOMARY_DYNAMIC
    return secrets.choice(PRIVATE_DYNAMIC)


def require_free(ports: Mapping[str, int], free: Callable[[int], bool] = is_free) -> None:
    """Raise `PortTaken` naming every port of *ports* that somebody else holds, and the holder."""
    taken = [f"{name} {port}: {holder_of(port)}" for name, port in ports.items() if not free(port)]
    if taken:
        raise PortTaken(
            "Ports that this cluster uses for the life of its data are held by others: " + "; ".join(taken)
        )
