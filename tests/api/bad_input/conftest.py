"""Bad input never meets a limit of its rate: what is wrong with it is what is answered."""

import pytest

from api.world import World
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass, RatePolicy


@pytest.fixture
async def world():
    plenty = {rate: RatePolicy(per_second=10_000, burst=10_000) for rate in RateClass}
    async with World(rates=plenty) as world:
        yield world
