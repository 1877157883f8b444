from collections.abc import AsyncIterator

import pytest
import structlog

from api.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
def logged():
    """Every line that is logged while the test runs."""
    with structlog.testing.capture_logs() as lines:
        yield lines
