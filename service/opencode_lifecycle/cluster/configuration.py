"""The servers' configuration files, as values. JSON, which all three read, so that nothing is pasted into text."""

from collections.abc import Mapping
from typing import Any, Final

from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.record import Record

NODE_NAME: Final = "opencode"
DATACENTER: Final = "dc1"
REGION: Final = "global"
NAMESPACE: Final = "opencode"
KV_MOUNT: Final = "kv"
JWT_MOUNT: Final = "jwt-nomad"
CONSUL_AUTH_METHOD: Final = "nomad-workloads"

_LOOPBACK: Final = "127.0.0.1"
_CONNECTIONS: Final = 10_000
_ROOM: Final[Mapping[str, int]] = {"cpu_total_compute": 10_000_000, "memory_total_mb": 20_000_000}
_CLOUDS: Final = "env_aws,env_gce,env_azure,env_digitalocean"
"""Fingerprinters that ask a cloud's metadata address: without internet they wait, and one of them ends the agent."""


def consul(layout: Layout, record: Record, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return Consul's configuration: one server, everything denied that no policy allows."""
    return {
        "server": True,
        "bootstrap_expect": 1,
        "datacenter": DATACENTER,
        "node_name": NODE_NAME,
        "data_dir": str(layout.data("consul")),
        "bind_addr": _LOOPBACK,
        "client_addr": _LOOPBACK,
        "ports": {
            "http": record.ports["consul_http"],
            "server": record.ports["consul_server"],
            "serf_lan": record.ports["consul_serf"],
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
            "grpc_tls": -1,
        },
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"agent": secrets["consul_agent"]},
        },
        "ui_config": {"enabled": True},
        "connect": {"enabled": False},
        "performance": {"raft_multiplier": 1},
        "limits": {"http_max_conns_per_client": _CONNECTIONS},
        "leave_on_terminate": False,
        "skip_leave_on_interrupt": True,
        "disable_update_check": True,
        "log_level": "INFO",
    }


def vault(layout: Layout, record: Record) -> dict[str, Any]:
    """Return Vault's configuration: integrated storage on disk. Locking memory needs rights that a user lacks."""
    return {
        "storage": {"raft": {"path": str(layout.data("vault")), "node_id": NODE_NAME}},
        "listener": [
            {"tcp": {"address": f"{_LOOPBACK}:{record.ports['vault_api']}", "tls_disable": True}},
        ],
        "api_addr": record.address("vault"),
        "cluster_addr": f"https://{_LOOPBACK}:{record.ports['vault_cluster']}",
        "disable_mlock": True,
        "ui": True,
        "log_level": "info",
    }


def nomad(layout: Layout, record: Record, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return Nomad's configuration: server and client in one agent, with its data on disk."""
    ports = {name: record.ports[f"nomad_{name}"] for name in ("http", "rpc", "serf")}
    return {
        "name": NODE_NAME,
        "region": REGION,
        "datacenter": DATACENTER,
        "data_dir": str(layout.data("nomad")),
        "bind_addr": _LOOPBACK,
        "ports": ports,
        "advertise": {name: f"{_LOOPBACK}:{port}" for name, port in ports.items()},
        # Short, so that asking with a known token makes the client call its server; see `hasten_registration`.
        "acl": {"enabled": True, "token_ttl": "1s"},
        "server": _nomad_server(),
        "client": _nomad_client(layout, record),
        "plugin": [{"raw_exec": [{"config": [{"enabled": True}]}]}],
        "consul": {
            "address": f"{_LOOPBACK}:{record.ports['consul_http']}",
            "token": secrets["consul_nomad"],
            "service_auth_method": CONSUL_AUTH_METHOD,
            "service_identity": {"aud": ["consul.io"], "ttl": "1h"},
        },
        "vault": {
            "enabled": True,
            "address": record.address("vault"),
            "jwt_auth_backend_path": JWT_MOUNT,
            "default_identity": {"aud": ["vault.io"], "ttl": "1h"},
        },
        "ui": {"enabled": True},
        "limits": {
            "http_max_conns_per_client": _CONNECTIONS,
            "rpc_max_conns_per_client": _CONNECTIONS,
        },
        "leave_on_interrupt": False,
        "leave_on_terminate": False,
        "disable_update_check": True,
        "log_level": "INFO",
    }


def _nomad_server() -> dict[str, Any]:
    return {
        "enabled": True,
        "bootstrap_expect": 1,
        # A follower of events that was away for a while finds its place again, and need not list everything.
        "event_buffer_size": 20_000,
        "default_scheduler_config": {"memory_oversubscription_enabled": True},
    }


def _nomad_client(layout: Layout, record: Record) -> dict[str, Any]:
    first, last = record.dynamic_ports
    return {
        "enabled": True,
        "servers": [f"{_LOOPBACK}:{record.ports['nomad_rpc']}"],
        # Services must be registered under the address that everything here listens on.
        "network_interface": "lo",
        "host_volumes_dir": str(layout.workspaces),
        "min_dynamic_port": first,
        "max_dynamic_port": last,
        "max_kill_timeout": "2m",
        # Above this count every new allocation has terminal ones collected, with their logs.
        "gc_max_allocs": 10_000,
        "gc_disk_usage_threshold": 99,
        "gc_inode_usage_threshold": 99,
        # Without Docker: two Nomads on one Docker take each other's containers for leftovers and remove them.
        "options": {"fingerprint.denylist": _CLOUDS, "driver.allowlist": "raw_exec,mock_driver"},
        # With a bounded number of attempts a template goes deaf, or its task is killed, after an outage of minutes.
        "template": {"nomad_retry": {"attempts": 0}, "vault_retry": {"attempts": 0}},
        **(_ROOM if record.roomy else {}),
    }
