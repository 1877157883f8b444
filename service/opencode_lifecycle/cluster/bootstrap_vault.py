"""Vault initialised, unsealed and set up. Every step can be repeated and goes on where an earlier run stopped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import hvac
import requests
from hvac.exceptions import VaultError

from opencode_lifecycle.cluster import configuration, loopback
from opencode_lifecycle.cluster.errors import BootstrapFailed
from opencode_lifecycle.cluster.layout import Layout, read_json, write_json, write_private
from opencode_lifecycle.cluster.record import Record
from opencode_lifecycle.shipped import shipped

WORKLOAD_ROLE: Final = "opencode"
MAX_VERSIONS: Final = 10
"""A rotation that is rolled back finds its old version; older ones are of no use."""
TOKEN_PERIOD: Final = timedelta(days=3)
"""The service and the supervisor renew their tokens within it; one that lapsed is replaced at the next start."""
_ACCESSOR: Final = "AUTH_METHOD_ACCESSOR"
_WORKLOAD_TOKEN_PERIOD: Final = "30m"  # noqa: S105  (a duration)
_WITHOUT_KEYS: Final = "Vault's key file {} is gone; put it back, or give up all data with `opencode-lifecycle cluster destroy` and begin anew."


def discard_a_lost_initialisation(layout: Layout) -> None:
    """
    Empty Vault's data when its keys are not known, which only happens before it ever held a secret.

    Vault tells its keys once, in the answer to the initialisation. If that answer was lost, nothing can open the data
    again, and nothing was written to it: every later step needs the keys. Where a later step has left its trace, the
    key file was lost by somebody, and the data stays.
    """
    if layout.vault_keys.exists():
        return
    if layout.token("vault").exists():
        raise BootstrapFailed(_WITHOUT_KEYS.format(layout.vault_keys))
    shutil.rmtree(layout.data("vault"), ignore_errors=True)
    layout.data("vault").mkdir(mode=0o700)


def initialise(layout: Layout, record: Record) -> None:
    """Initialise a new Vault with one key, kept in the key file."""
    with _translated("initialise Vault"):
        client = hvac.Client(url=record.address("vault"), timeout=30)
        if client.sys.is_initialized():
            if not layout.vault_keys.exists():
                raise BootstrapFailed(_WITHOUT_KEYS.format(layout.vault_keys))
            return
        answer = client.sys.initialize(secret_shares=1, secret_threshold=1)
        write_json(
            layout.vault_keys, {"unseal_key": answer["keys_base64"][0], "root_token": answer["root_token"]}
        )


def unseal(layout: Layout, record: Record) -> bool:
    """Unseal Vault from the key file and tell whether it is open now. A Vault without keys yet stays sealed."""
    seal = loopback.ask(record.ports["vault_api"], "/v1/sys/seal-status")
    keys = read_json(layout.vault_keys)
    if seal is None or keys is None or not seal.get("initialized"):
        return False
    if not seal["sealed"]:
        return True
    with _translated("unseal Vault"):
        client = hvac.Client(url=record.address("vault"), timeout=30)
        return not client.sys.submit_unseal_key(keys["unseal_key"])["sealed"]


def bootstrap(layout: Layout, record: Record) -> None:
    """Bring audit log, secrets mount, policies and tokens in force."""
    with _translated("set up Vault"):
        client = _client(layout, record)
        if "file/" not in client.sys.list_enabled_audit_devices()["data"]:
            path = layout.folder("vault") / "audit.log"
            client.sys.enable_audit_device("file", options={"file_path": str(path), "mode": "0600"})
        if f"{configuration.KV_MOUNT}/" not in client.sys.list_mounted_secrets_engines()["data"]:
            client.sys.enable_secrets_engine(
                "kv", path=configuration.KV_MOUNT, options={"version": "2"}, description="OpenCode passwords"
            )
        _configure_kv(client)
        for name in ("control-plane", "operator"):
            client.sys.create_or_update_policy(name, shipped(f"vault_policies/{name}.hcl").read_text())
        refresh_token(layout, record, "control-plane")
        refresh_token(layout, record, "operator")


def _configure_kv(client: Any) -> None:
    client.secrets.kv.v2.configure(max_versions=MAX_VERSIONS, mount_point=configuration.KV_MOUNT)


def refresh_token(layout: Layout, record: Record, policy: str) -> None:
    """Renew the token that carries *policy*, or replace it when it has lapsed."""
    path = layout.token("vault") if policy == "control-plane" else layout.folder("vault") / f"{policy}.token"
    with _translated(f"renew Vault's token for {policy}"):
        client = _client(layout, record)
        if path.exists():
            try:
                client.auth.token.renew(path.read_text().strip())
            except VaultError:
                pass
            else:
                return
        answer = client.auth.token.create(
            policies=[policy],
            period=f"{int(TOKEN_PERIOD.total_seconds())}s",
            no_parent=True,
            no_default_policy=True,
            renewable=True,
            display_name=policy,
        )
        write_private(path, answer["auth"]["client_token"] + "\n")


def trust_nomad(layout: Layout, record: Record) -> None:
    """Let Nomad's workloads log in, each to read the secret of its own job."""
    with _translated("let Nomad's workloads log in to Vault"):
        client = _client(layout, record)
        mount = f"{configuration.JWT_MOUNT}/"
        if mount not in client.sys.list_auth_methods()["data"]:
            client.sys.enable_auth_method("jwt", path=configuration.JWT_MOUNT)
        client.auth.jwt.configure(
            jwks_url=f"{record.address('nomad')}/.well-known/jwks.json",
            jwt_supported_algs=["EdDSA", "RS256"],
            default_role=WORKLOAD_ROLE,
            path=configuration.JWT_MOUNT,
        )
        accessor = client.sys.list_auth_methods()["data"][mount]["accessor"]
        policy = shipped("vault_policies/opencode-runtime.hcl").read_text().replace(_ACCESSOR, accessor)
        client.sys.create_or_update_policy("opencode-runtime", policy)
        client.auth.jwt.create_role(
            name=WORKLOAD_ROLE,
            role_type="jwt",
            path=configuration.JWT_MOUNT,
            allowed_redirect_uris=[],
            bound_audiences=["vault.io"],
            bound_claims={"nomad_namespace": configuration.NAMESPACE},
            user_claim="/nomad_job_id",
            user_claim_json_pointer=True,
            claim_mappings={key: key for key in ("nomad_namespace", "nomad_job_id", "nomad_task")},
            token_type="service",  # noqa: S106  (a kind of token, no token)
            token_period=_WORKLOAD_TOKEN_PERIOD,
            token_policies=["opencode-runtime"],
        )


def root_token(layout: Layout) -> str:
    keys = read_json(layout.vault_keys)
    if keys is None:
        raise BootstrapFailed(_WITHOUT_KEYS.format(layout.vault_keys))
    return str(keys["root_token"])


def _client(layout: Layout, record: Record) -> Any:
    return hvac.Client(url=record.address("vault"), token=root_token(layout), timeout=30)


@contextmanager
def _translated(purpose: str) -> Iterator[None]:
    try:
        yield
    except (VaultError, requests.RequestException) as error:
        raise BootstrapFailed(f"Could not {purpose} ({type(error).__name__}); see vault/log.") from None
