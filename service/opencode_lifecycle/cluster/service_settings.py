"""The service's settings file and the shell environment of an embedded cluster."""

import json
import shlex
import sys
from pathlib import Path
from typing import Final

from opencode_lifecycle.cluster import configuration
from opencode_lifecycle.cluster.bootstrap_vault import WORKLOAD_ROLE
from opencode_lifecycle.cluster.layout import Layout, write_private
from opencode_lifecycle.cluster.record import Record

_BORDER: Final = "# Yours from here: `cluster up` keeps what follows and writes anew what stands above.\n"


def write_settings(layout: Layout, record: Record) -> None:
    """Write the settings that follow from the cluster, and keep what somebody has added below them."""
    ours = {
        "listen_host": "127.0.0.1",
        "listen_port": record.ports["service"],
        "database_url": f"sqlite:///{layout.folder('service') / 'lifecycle.db'}",
        "nomad_address": record.address("nomad"),
        "nomad_token_file": str(layout.token("nomad")),
        "nomad_namespace": configuration.NAMESPACE,
        "nomad_region": configuration.REGION,
        "vault_address": record.address("vault"),
        "vault_token_file": str(layout.token("vault")),
        "vault_kv_mount": configuration.KV_MOUNT,
        "vault_workload_role": WORKLOAD_ROLE,
        "consul_address": record.address("consul"),
        "consul_token_file": str(layout.token("consul")),
        # Seconds: one machine has few secrets, and who rotates one by hand is watching.
        "secret_sweep_interval": 10,
        "driver": "raw_exec",
        "opencode_version": record.opencode_version,
        "opencode_path": _path_of_any_version(record),
    }
    # A JSON string is a TOML string, and so is a JSON number.
    lines = "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in ours.items())
    kept = ""
    if layout.settings.exists():
        kept = layout.settings.read_text().partition(_BORDER)[2]
    write_private(layout.settings, f"# Settings of the embedded cluster's service.\n{lines}\n{_BORDER}{kept}")


def _path_of_any_version(record: Record) -> str:
    """
    Return where OpenCode lies with `{version}` in the place of the version, as the cache has it.

    So a release may be of any version that was fetched: `opencode-lifecycle cluster fetch --opencode-version`.
    """
    program = Path(record.programs["opencode"])
    if program.parent.name != record.opencode_version:
        return str(program)
    return str(program.parent.parent / "{version}" / program.name)


def write_environment(layout: Layout, record: Record) -> None:
    """Write the file that a shell sources to use the servers' own command lines and ours."""
    folders = dict.fromkeys(str(Path(program).parent) for program in record.programs.values())
    values = {
        "NOMAD_ADDR": record.address("nomad"),
        "NOMAD_NAMESPACE": configuration.NAMESPACE,
        "CONSUL_HTTP_ADDR": record.address("consul"),
        "VAULT_ADDR": record.address("vault"),
    }
    tokens = {
        "NOMAD_TOKEN": layout.folder("nomad") / "operator.token",
        "CONSUL_HTTP_TOKEN": layout.folder("consul") / "operator.token",
        "VAULT_TOKEN": layout.folder("vault") / "operator.token",
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    # Read when the file is sourced: a token that was replaced meanwhile is then the new one.
    lines += [f'export {name}="$(cat {shlex.quote(str(path))})"' for name, path in tokens.items()]
    if not record.servers_only:
        lines += [
            f"export OPENCODE_LIFECYCLE_URL={shlex.quote(record.address('service'))}",
            f"export OPENCODE_LIFECYCLE_TOKEN_FILE={shlex.quote(str(layout.tokens / 'operator'))}",
        ]
    path = ":".join(shlex.quote(folder) for folder in folders)
    # Ours comes last: the folder holds a Python of its own, which must not take the place of the person's.
    ours = shlex.quote(str(Path(sys.executable).parent))
    write_private(layout.environment, "\n".join([*lines, f'export PATH={path}:"$PATH":{ours}']) + "\n")
