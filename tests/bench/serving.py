"""
Runs the service as `opencode-lifecycle serve` does, and says its address, which the caller cannot know.

With BENCH_METER naming a file, it writes there at its end where its CPU time went; with BENCH_PROFILE, what Python's own
profiler saw of the main thread.
"""

import asyncio
import cProfile
import json
import os
import signal
import sys
from pathlib import Path

from bench.metering import Meter
from opencode_lifecycle import application, telemetry
from opencode_lifecycle.settings import Settings


async def main(settings: Settings, report: Path | None) -> None:
    telemetry.configure_logging(form=settings.log_format, level=settings.log_level)
    meter = Meter() if report else None
    if meter is not None:
        meter.install()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with application.running(settings) as address:
        print(address, flush=True)  # noqa: T201 - how the bench learns of it
        await stopping.wait()
        if meter is not None and report is not None:
            report.write_text(json.dumps(meter.report()))  # noqa: ASYNC240 - it serves no more


if __name__ == "__main__":
    where, profile = os.environ.get("BENCH_METER"), os.environ.get("BENCH_PROFILE")
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    asyncio.run(main(settings, Path(where) if where else None))
    if profile:
        profiler.dump_stats(profile)
