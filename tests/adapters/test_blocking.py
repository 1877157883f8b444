"""What the thread pool for synchronous libraries promises."""

import asyncio
import threading

import pytest

from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded


@pytest.fixture
def calls():
    calls = BlockingCalls(threads=1, name="test")
    yield calls
    calls.close()


def soon() -> Deadline:
    return Deadline.after(5, "test")


async def test_a_call_runs_in_a_thread_and_returns_its_result(calls):
    name = await calls.run(soon(), lambda: threading.current_thread().name)

    assert name.startswith("test")


async def test_arguments_are_passed_on(calls):
    assert await calls.run(soon(), int, "ff", base=16) == 255


async def test_what_a_call_raises_is_raised(calls):
    with pytest.raises(ValueError, match="invalid literal"):
        await calls.run(soon(), int, "x")


async def test_the_loop_goes_on_while_a_call_runs(calls):
    go = threading.Event()
    running = asyncio.create_task(calls.run(soon(), go.wait, 5))

    await asyncio.sleep(0)
    go.set()

    assert await running is True


async def test_a_call_that_takes_too_long_is_left_to_itself(calls):
    go = threading.Event()

    with pytest.raises(DeadlineExceeded):
        await calls.run(Deadline.after(0.05, "test"), go.wait, 5)

    go.set()


async def test_a_call_that_found_no_thread_in_time_is_never_made(calls):
    go, made = threading.Event(), []
    busy = asyncio.create_task(calls.run(soon(), go.wait, 5))
    await asyncio.sleep(0)

    with pytest.raises(DeadlineExceeded):
        await calls.run(Deadline.after(0.05, "test"), made.append, 1)

    go.set()
    await busy
    await calls.run(soon(), lambda: None)  # anything that still waited would have come first
    assert made == []
