import pytest

from world import World


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    async with made.running():
        yield made
