"""The servers' versions: which one is pinned, which are accepted, what its archive must be, how it is built."""

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedServer:
    """
    A server program.

    `checksums` holds the SHA-256 of the official release archive of `version` for each platform, as its makers
    publish it; a platform without one has no archive that we trust. Accepted on PATH: `lowest` ≤ version < `below`.
    """

    name: str
    version: str
    lowest: Version
    below: Version
    checksums: Mapping[str, str]
    needs_c_compiler: bool = False
    build_tags: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return f"github.com/hashicorp/{self.name}"

    def accepts(self, version: Version) -> bool:
        return self.lowest <= version < self.below


NOMAD: Final = PinnedServer(
    name="nomad",
    version="1.11.3",
    lowest=(1, 11, 3),
    below=(2, 0, 0),
    needs_c_compiler=True,
    build_tags=("ui",),
    checksums={
        "linux-amd64": "19dac5642a2ba5305e6ff8efee06a708d760ebe4d1cd7936bc3dc526f477dc12",
        "linux-arm64": "902e44260fcd9297af7042fb33ccd5a29cc2202b57199724f17c96fcd67414d2",
    },
)
CONSUL: Final = PinnedServer(
    name="consul",
    version="1.22.3",
    lowest=(1, 21, 0),
    below=(2, 0, 0),
    checksums={
        "linux-amd64": "0942ef6ed43522adfb4cddbefea2f0e64306318afb8aeab3727563f0caef04be",
        "linux-arm64": "ee6f8bee5290c98ad64be28e5a8865a1a299f62b4edd19e8428e3cde9ad58ffa",
    },
)
VAULT: Final = PinnedServer(
    name="vault",
    version="1.21.2",
    lowest=(1, 20, 0),
    below=(2, 0, 0),
    build_tags=("minimal",),
    checksums={
        "linux-amd64": "d2005a053a2ab75318d395ca8151aef9116fde67f75dc8f43a4fa9def6f3fc9e",
        "linux-arm64": "27dc55533a201be4c427319a31caa3ca330cfd40b158d111f22a1dee94ae1f17",
    },
)
PINNED: Final = (NOMAD, CONSUL, VAULT)

_ARCHITECTURES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_VERSION: Final = re.compile(r"\bv(\d+)\.(\d+)\.(\d+)\b")


def this_platform() -> str:
    """Return operating system and architecture in Go's words, such as `linux-amd64`."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{_ARCHITECTURES.get(machine, machine)}"


def parse_version(text: str) -> Version | None:
    """Return the version that a server's own `version` command prints, or None when it prints none."""
    found = _VERSION.search(text)
    if found is None:
        return None
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch
