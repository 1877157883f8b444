"""Ways to take a server away for a while. Each gives it back, ready, whatever happens meanwhile."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster_fixture import RealCluster
from end_to_end.servers import Servers
from opencode_lifecycle.cluster import bootstrap_vault


@asynccontextmanager
async def frozen(cluster: RealCluster, server: str) -> AsyncIterator[None]:
    await cluster.pause(server)
    try:
        yield
    finally:
        await cluster.resume(server)
        await cluster.until_ready(server)


@asynccontextmanager
async def down(cluster: RealCluster, server: str) -> AsyncIterator[None]:
    await cluster.stop(server)
    try:
        yield
    finally:
        await cluster.start(server)


@asynccontextmanager
async def sealed(cluster: RealCluster, server: str) -> AsyncIterator[None]:
    await Servers(cluster).vault("sys/seal", "PUT")
    try:
        yield
    finally:
        await asyncio.to_thread(bootstrap_vault.unseal, cluster.layout, cluster.record)
        await cluster.until_ready(server)


@asynccontextmanager
async def crashed(cluster: RealCluster, server: str) -> AsyncIterator[None]:
    """Kill the server, and keep it down."""
    await asyncio.to_thread(cluster.layout.held(server).touch)
    await cluster.kill(server)
    await cluster.stop(server)
    try:
        yield
    finally:
        await cluster.start(server)


@asynccontextmanager
async def audit_blocked(cluster: RealCluster, server: str) -> AsyncIterator[None]:
    """Give the server a further audit device that takes nothing any more: whatever needs auditing hangs."""
    assert server == "vault"
    servers = Servers(cluster)
    pipe = cluster.directory / "audit.pipe"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    try:
        await servers.vault("sys/audit/blocked", "PUT", {"type": "file", "options": {"file_path": str(pipe)}})
        yield
    finally:
        draining = asyncio.get_running_loop()
        draining.add_reader(reader, lambda: os.read(reader, 65536))
        try:
            await servers.vault("sys/audit/blocked", "DELETE")
        finally:
            draining.remove_reader(reader)
            os.close(reader)
            pipe.unlink()
