"""Nomad's access control and namespace, set up. Every step can be repeated and goes on where an earlier run stopped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from nomad import Nomad
from nomad.api.exceptions import BaseNomadException

from opencode_lifecycle.cluster import configuration, loopback
from opencode_lifecycle.cluster.bootstrap_consul import POLICIES
from opencode_lifecycle.cluster.errors import BootstrapFailed
from opencode_lifecycle.cluster.layout import Layout, write_private
from opencode_lifecycle.cluster.record import Record

_TOKEN: Final = "X-Nomad-Token"  # noqa: S105  (the name of a header)


def bootstrap(layout: Layout, record: Record, secrets: Mapping[str, str]) -> None:
    """Bring namespace, policies and tokens in force, and write the token files."""
    with _translated("set up Nomad's access control"):
        client = _client(record, secrets)
        if not _knows(record, secrets["nomad_management"]):
            client.acl.request(
                "bootstrap", method="post", json={"BootstrapSecret": secrets["nomad_management"]}
            )
        client.namespace.create_namespace(
            {"Name": configuration.NAMESPACE, "Description": "One OpenCode server for each user"}
        )
        for holder in ("service", "operator", "workloads"):
            _put_policy(client, holder)
        _ensure_token(client, record, layout.token("nomad"), "service")
        _ensure_token(client, record, layout.folder("nomad") / "operator.token", "operator")


def is_registered(record: Record, secrets: Mapping[str, str]) -> bool:
    """Tell whether the client has registered since the agent started. Before that it starts and restores nothing."""
    me = loopback.ask(record.ports["nomad_http"], "/v1/agent/self", {_TOKEN: secrets["nomad_management"]})
    return me is not None and me["stats"]["client"]["heartbeat_ttl"] != "0s"


def hasten_registration(record: Record, secrets: Mapping[str, str]) -> None:
    """
    Make the client of a starting agent try again to register.

    Its first try comes before the server beside it can vouch for anybody, and the next one 15 to 30 s later, unless
    another call of the client to its server succeeds meanwhile. Resolving a token is one, and the agent is configured to
    forget tokens after a second.
    """
    loopback.exchange(
        "GET", record.ports["nomad_http"], "/v1/client/stats", {_TOKEN: secrets["nomad_management"]}
    )


def node_is_ready(record: Record, secrets: Mapping[str, str]) -> bool:
    """
    Tell whether this machine takes allocations.

    The server alone cannot know: after a restart it remembers the node as ready until its heartbeat is missed.
    """
    if not is_registered(record, secrets):
        return False
    nodes = loopback.ask(record.ports["nomad_http"], "/v1/nodes", {_TOKEN: secrets["nomad_management"]})
    return bool(nodes) and any(
        node["Status"] == "ready" and node["SchedulingEligibility"] == "eligible" for node in nodes
    )


def _client(record: Record, secrets: Mapping[str, str]) -> Any:
    return Nomad(
        host="127.0.0.1",
        port=record.ports["nomad_http"],
        token=secrets["nomad_management"],
        timeout=30,
        verify=True,
    )


def _knows(record: Record, secret: str) -> bool:
    return loopback.ask(record.ports["nomad_http"], "/v1/acl/token/self", {_TOKEN: secret}) is not None


def _put_policy(client: Any, holder: str) -> None:
    name = f"opencode-lifecycle-{holder}"
    policy: dict[str, Any] = {"Name": name, "Rules": (POLICIES / f"nomad-{holder}.hcl").read_text()}
    if holder == "workloads":
        policy["JobACL"] = {"Namespace": configuration.NAMESPACE}
    client.acl.create_policy(name, policy)


def _ensure_token(client: Any, record: Record, path: Path, holder: str) -> None:
    """
    Leave a token in *path* that carries the policy of *holder*.

    Nomad chooses the secret itself, so a run that died between the two may leave a token behind that nobody knows;
    those are taken away.
    """
    name = f"opencode-lifecycle-{holder}"
    if path.exists() and _knows(record, path.read_text().strip()):
        return
    for token in client.acl.get_tokens():
        if token["Name"] == name:
            client.acl.delete_token(token["AccessorID"])
    token = client.acl.create_token({"Name": name, "Type": "client", "Policies": [name]})
    write_private(path, token["SecretID"] + "\n")


@contextmanager
def _translated(purpose: str) -> Iterator[None]:
    try:
        yield
    except (BaseNomadException, requests.RequestException) as error:
        raise BootstrapFailed(f"Could not {purpose} ({type(error).__name__}); see nomad/log.") from None
