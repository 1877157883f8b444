"""
Runs the service as `opencode-lifecycle serve` does, and says its address, which the caller cannot know.

For each line that it is told it says how many statements it has sent to its database so far.

With BENCH_METER naming a file, it writes there at its end where its CPU time went.
"""

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

gc.disable()
from bench.metering import Meter  # noqa: E402 - as `opencode-lifecycle serve` loads it
from opencode_lifecycle import application, telemetry  # noqa: E402
from opencode_lifecycle.adapters.database.database import Database  # noqa: E402
from opencode_lifecycle.settings import Settings  # noqa: E402

Answer = Callable[[str], object]
"""What is said for a line that the program is told."""


async def main(settings: Settings, report: Path | None, answer: Answer | None = None) -> None:
    telemetry.configure_logging(form=settings.log_format, level=settings.log_level)
    meter = Meter() if report else None
    if meter is not None:
        meter.install()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    databases = _remember_databases()
    async with application.running(settings) as address:
        print(address, flush=True)  # noqa: T201 - how the bench learns of it
        counting = asyncio.create_task(_answer_lines(answer or (lambda _: _statements_of(databases))))
        await stopping.wait()
        counting.cancel()
        if meter is not None and report is not None:
            report.write_text(json.dumps(meter.report()))  # noqa: ASYNC240 - it serves no more


def _remember_databases() -> list[Database]:
    """Return a list that every database is added to that is opened from now on."""
    opened: list[Database] = []
    original = Database.open

    async def remembered(self: Database) -> None:
        opened.append(self)
        await original(self)

    Database.open = remembered  # type: ignore[method-assign]  # of this process alone
    return opened


def _statements_of(databases: Sequence[Database]) -> int:
    return sum(each.statements for each in databases)


async def _answer_lines(answer: Answer) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        print(answer(line.decode().strip()), flush=True)  # noqa: T201


def run(answer: Answer | None = None) -> None:
    """Serve with the settings that the first argument names, until told to end."""
    where = os.environ.get("BENCH_METER")
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    asyncio.run(main(settings, Path(where) if where else None, answer))


if __name__ == "__main__":
    run()
