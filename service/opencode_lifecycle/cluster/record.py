"""What is chosen at the first start and kept: identity, ports and options."""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opencode_lifecycle.cluster import port_choice
from opencode_lifecycle.cluster.layout import Layout, read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """
    One embedded cluster.

    `roomy` makes the node claim far more memory and CPU than there is, for tests with hundreds of mock runtimes.
    """

    id: str
    ports: Mapping[str, int]
    dynamic_ports: tuple[int, int]
    servers_only: bool = False
    roomy: bool = False
    programs: Mapping[str, str] = field(default_factory=dict)
    opencode_version: str = ""

    def address(self, server: str) -> str:
        """Return the base URL of *server*."""
        return f"http://127.0.0.1:{self.ports[_HTTP_PORT[server]]}"

    def program(self, server: str) -> Path:
        return Path(self.programs[server])

    def save(self, layout: Layout) -> None:
        write_json(
            layout.record,
            {
                "id": self.id,
                "ports": dict(self.ports),
                "dynamic_ports": list(self.dynamic_ports),
                "servers_only": self.servers_only,
                "roomy": self.roomy,
                "programs": dict(self.programs),
                "opencode_version": self.opencode_version,
            },
        )


_HTTP_PORT = {"consul": "consul_http", "vault": "vault_api", "nomad": "nomad_http", "service": "service"}


def load(layout: Layout) -> Record | None:
    """Return the record of the cluster in *layout*, or None where there is none."""
    value = read_json(layout.record)
    if value is None:
        return None
    first, last = value.pop("dynamic_ports")
    return Record(dynamic_ports=(first, last), **value)


def load_or_choose(layout: Layout, *, private: bool, roomy: bool) -> Record:
    """Return the record of the cluster in *layout*, choosing one when this is its first start."""
    known = load(layout)
    if known is not None:
        return replace(known, roomy=known.roomy or roomy)
    return Record(
        id=secrets.token_hex(16),
        ports=port_choice.choose(private=private),
        dynamic_ports=port_choice.choose_dynamic(private=private),
        roomy=roomy,
    )


def load_or_make_secrets(layout: Layout) -> dict[str, str]:
    """
    Return the cluster's management tokens, making them at the first start.

    They are written down before the servers hear of them, so that no crash can lose one that is in force.
    """
    value: dict[str, Any] = read_json(layout.secrets) or {}
    wanted = ("consul_management", "consul_agent", "consul_nomad", "consul_service", "consul_operator")
    missing = [name for name in (*wanted, "nomad_management") if name not in value]
    if missing:
        value |= {name: str(uuid.uuid4()) for name in missing}
        write_json(layout.secrets, value)
    return value
