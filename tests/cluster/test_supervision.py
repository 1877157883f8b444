"""A supervised server comes back by itself, able to work."""

from cluster_fixture import RealCluster


async def test_a_vault_that_is_killed_comes_back_unsealed(cluster: RealCluster):
    before = cluster.process("vault")

    await cluster.kill("vault")
    await cluster.until_ready("vault")

    assert cluster.process("vault") != before


async def test_a_server_that_is_held_stays_down_until_it_is_released(cluster: RealCluster):
    await cluster.stop("nomad")
    assert not cluster.is_ready("nomad")

    await cluster.start("nomad")
    assert cluster.is_ready("nomad")
