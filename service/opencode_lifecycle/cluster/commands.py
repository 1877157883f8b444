"""How each server is started: its command line and its environment."""

import os
import sys
from collections.abc import Mapping
from typing import Final

from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.processes import MARK
from opencode_lifecycle.cluster.record import Record

_INHERITED: Final = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "PATH")


def command(server: str, layout: Layout, record: Record) -> list[str]:
    configuration = str(layout.configuration(server))
    match server:
        case "consul":
            return [str(record.program("consul")), "agent", f"-config-file={configuration}"]
        case "vault":
            return [str(record.program("vault")), "server", f"-config={configuration}"]
        case "nomad":
            return [str(record.program("nomad")), "agent", f"-config={configuration}"]
        case _:
            return [sys.executable, "-m", "opencode_lifecycle", "serve", "--settings", str(layout.settings)]


def environment(record: Record, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """
    Return the environment of every server: little, and none of the variables that steer servers or clients.

    A person who has sourced the cluster's own `env` file would else hand their token to Nomad and, through it, to
    every runtime.
    """
    return {name: inherited[name] for name in _INHERITED if name in inherited} | {MARK: record.id}
