"""Ways to take a server away for a while. Each gives it back, ready, whatever happens meanwhile."""

import asyncio
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
