"""Helper processes of the bench: each measured program has one of its own, on a core of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine

_PATIENCE = 60.0
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Program:
    """A running program that said in one line on its standard output that it is ready."""

    process: asyncio.subprocess.Process
    said: str
    errors: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self.pid)

    async def line(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()


@asynccontextmanager
async def program(
    module: str, *arguments: str, errors: Path, core: int | None = None, environment: Mapping[str, str] = {}
) -> AsyncIterator[Program]:
    """Run `python -m module`, entered when it has said its first line; ended with SIGTERM."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *pinned,
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
            limit=2**24,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE):
            said = (await process.stdout.readline()).decode().strip()
        if not said:
            raise RuntimeError(f"{module} ended at once:\n{tail(errors)}")
        yield Program(process, said, errors)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def output_of(command: Sequence[str]) -> str:
    """Run *command* to its end and return what it says; raise with its errors when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {err.decode()}")
    return out.decode()


def tail(file: Path, lines: int = 15) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


def cores() -> tuple[int, int]:
    """Return a core for the server and one for whoever loads it."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]
