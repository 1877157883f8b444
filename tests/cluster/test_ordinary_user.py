"""The cluster needs no root: an ordinary user brings it up, runs a job in it and removes it."""

import os
import pwd
import secrets
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import opencode_lifecycle
from cluster.calling import is_passing, service_of, start_a_runtime, until
from cluster_fixture import RealCluster
from opencode_lifecycle.cluster import processes
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster.cache import CACHE_VARIABLE, Cache
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.pinned import PINNED

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

PACKAGE = Path(opencode_lifecycle.__file__).parent


@dataclass(frozen=True)
class OrdinaryUser:
    """Somebody without rights, with a copy of the product in reach."""

    name: str
    id: int
    home: Path
    python: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        libraries = f"{self.home}/tree/service:{self.home}/libraries"
        return subprocess.run(
            [self.python, "-m", "opencode_lifecycle", "cluster", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
            **becoming(self.name),
            env={
                "HOME": str(self.home),
                "PATH": os.defpath,
                "PYTHONPATH": libraries,
                CACHE_VARIABLE: f"{self.home}/cache",
            },
        )


@pytest.fixture(scope="module")
def user() -> Iterator[OrdinaryUser]:
    """The one who runs the tests or, for root, a user made for them, who may not read root's own files."""
    home = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    if os.geteuid() != 0:
        copy_the_product(home)
        yield OrdinaryUser(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), home, sys.executable)
        shutil.rmtree(home)
        return
    name = f"oc-test-{secrets.token_hex(3)}"
    subprocess.run(["useradd", "--no-create-home", "--home-dir", str(home), name], check=True)
    try:
        copy_the_product(home)
        subprocess.run(["chown", "-R", name, str(home)], check=True)
        yield OrdinaryUser(name, pwd.getpwnam(name).pw_uid, home, a_python_for(name))
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)
        shutil.rmtree(home)


def becoming(name: str) -> dict[str, Any]:
    """Return what makes a new process belong to the user, with none of root's rights."""
    if os.geteuid() != 0:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def copy_the_product(home: Path) -> None:
    """Copy the package, what it is shipped with, its libraries and the servers: the originals may be closed to others."""
    shutil.copytree(PACKAGE, home / "tree" / "service" / "opencode_lifecycle")
    for folder in ("vault_policies", "nomad_jobs", "migrations"):
        shutil.copytree(PACKAGE.parent.parent / folder, home / "tree" / folder)
    (libraries,) = (Path(path) for path in site.getsitepackages())
    shutil.copytree(
        libraries, home / "libraries", ignore=shutil.ignore_patterns("*.pth", "__editable__*", "mypy*")
    )
    for server in PINNED:
        place = Cache(home / "cache").server(server)
        place.parent.mkdir(parents=True)
        shutil.copy(Cache.of_this_user().server(server), place)


def a_python_for(name: str) -> str:
    """Return a Python of this version that the user may run; root's own may lie where nobody else may look."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    candidates: Sequence[str] = (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}")
    for candidate in candidates:
        try:
            tried = subprocess.run([candidate, "-c", ""], check=False, cwd="/", **becoming(name))
        except PermissionError:
            continue
        if tried.returncode == 0:
            return candidate
    pytest.fail(f"No {version} that other users may run; on Debian: apt-get install python3")


def test_an_ordinary_user_runs_the_whole_chain_and_leaves_nothing(user: OrdinaryUser):
    directory = user.home / "c"
    up = user.run("up", "--directory", str(directory), "--servers-only", "--private", "--require-mock-driver")
    assert up.returncode == 0, up.stderr
    layout = Layout(directory)
    record = record_file.load(layout)
    assert record is not None
    service = service_of(RealCluster(layout, record))

    start_a_runtime(service, "oc-ordinary", python=user.python)
    passing = until(lambda: is_passing(service, "oc-ordinary"))
    owners = {Path(f"/proc/{process.pid}").stat().st_uid for process in processes.bearing(record.id)}
    status = user.run("status", "--directory", str(directory))
    destroyed = user.run("destroy", "--directory", str(directory))

    assert passing
    assert owners == {user.id}
    assert status.returncode == 0
    assert "Without root Nomad has no cgroups" in status.stdout
    assert destroyed.returncode == 0, destroyed.stderr
    assert not directory.exists()
    assert processes.bearing(record.id) == []
