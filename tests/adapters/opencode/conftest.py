from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fakes.model_server import ModelServer, model_server
from real_opencode import RealOpenCode, open_opencode, opencode, opencode_program, real_opencode

__all__ = ["open_opencode", "opencode_program", "real_opencode"]


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.fixture
def server(opencode_program: Path, model: ModelServer, tmp_path: Path) -> Iterator[RealOpenCode]:
    """Give a real server whose agents ask the model."""
    with opencode(
        opencode_program, tmp_path, password="secret-of-this-test", configuration=model.configuration()
    ) as running:
        yield running
