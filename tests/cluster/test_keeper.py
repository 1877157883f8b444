"""A keeper starts its server again and again, slower each time, and tells how it stands."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from opencode_lifecycle.cluster import keeper as keeper_module
from opencode_lifecycle.cluster.keeper import Keeper
from opencode_lifecycle.cluster.processes import terminate


@asynccontextmanager
async def keeping(
    folder: Path, script: str, on_start: Callable[[], None] = lambda: None
) -> AsyncIterator[Keeper]:
    async def started() -> None:
        on_start()

    keeper = Keeper(
        command=["/bin/sh", "-c", script],
        environment={"PATH": os.defpath},
        log=folder / "log",
        held=folder / "held",
        on_start=started,
        on_change=lambda: None,
    )
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if keeper.state.process is not None:
            terminate([keeper.state.process], keeper_module._STOP_GRACE)
        keeper.reap()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():  # noqa: ASYNC110 - processes and files have no event
            await asyncio.sleep(0.01)


async def test_a_server_that_is_killed_is_started_again(tmp_path: Path):
    async with keeping(tmp_path, "exec sleep 600") as keeper:
        await until(lambda: keeper.state.state == "running")
        first = keeper.state.process
        assert first is not None
        os.kill(first.pid, 9)

        await until(lambda: keeper.state.state == "running" and keeper.state.process != first)

        assert keeper.state.restarts == 1
        assert keeper.state.last_exit == "killed by signal 9"


async def test_what_is_due_after_a_start_is_done_after_every_start(tmp_path: Path):
    starts: list[int] = []
    async with keeping(tmp_path, "exec sleep 600", lambda: starts.append(1)) as keeper:
        await until(lambda: len(starts) == 1)
        assert keeper.state.process is not None
        os.kill(keeper.state.process.pid, 9)

        await until(lambda: len(starts) == 2)


async def test_a_server_that_ends_at_once_is_retried_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds >= keeper_module._FIRST_PAUSE:
            pauses.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr("opencode_lifecycle.cluster.keeper.asyncio.sleep", sleep)
    async with keeping(tmp_path, "exit 3") as keeper:
        async with asyncio.timeout(15):
            while len(pauses) < 8:
                await real_sleep(0.01)
        assert keeper.state.last_exit == "exit status 3"
        assert keeper.state.restarts >= 8

    assert pauses[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]


async def test_a_held_server_is_stopped_and_stays_down_until_it_is_released(tmp_path: Path):
    async with keeping(tmp_path, "exec sleep 600") as keeper:
        await until(lambda: keeper.state.state == "running")
        process = keeper.state.process
        assert process is not None
        (tmp_path / "held").touch()
        await until(lambda: keeper.state.state == "held")

        assert not process.is_alive()
        assert keeper.state.restarts == 0
        (tmp_path / "held").unlink()
        await until(lambda: keeper.state.state == "running")


async def test_what_a_server_says_is_kept_over_its_restarts(tmp_path: Path):
    async with keeping(tmp_path, "echo line; exit 1") as keeper:
        await until(lambda: keeper.state.restarts >= 2)

    assert (tmp_path / "log").read_text().startswith("line\nline\n")


async def test_a_log_that_has_grown_too_long_is_set_aside_under_the_writing_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper_module, "MAX_LOG_BYTES", 5)
    log = tmp_path / "log"
    script = f"echo first words; while [ -s {log} ]; do sleep 0.01; done; echo then; exec sleep 600"
    async with keeping(tmp_path, script) as keeper:
        await until(lambda: log.exists() and "words" in log.read_text())
        keeper.rotate_log()

        await until(lambda: log.read_text() == "then\n")

    assert (tmp_path / "log.1").read_text() == "first words\n"
