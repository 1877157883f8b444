"""What the machine is and does while we measure, read from the kernel."""

import os
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_DISTURBED = 0.3
"""A disk whose median flush takes this much longer or shorter than before is not the same disk."""


def cpu_seconds(process: int) -> float:
    """Return the CPU time that the process has used so far, with that of its children it has waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS


def resident_kib(process: int) -> int:
    """Return how much memory of the process is in RAM now."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def fdatasync_ms(directory: Path, times: int = 60) -> tuple[float, float]:
    """Flush 4 KiB *times* times to a file in *directory*; return the median and the 99th percentile."""
    path = directory / "fdatasync.probe"
    page = b"x" * 4096
    taken: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(page)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1000)
    path.unlink()
    points = quantiles(taken, n=100)
    return points[49], points[98]


def moved(before: float, after: float) -> bool:
    return abs(after - before) > _DISTURBED * before


def facts(directory: Path) -> dict[str, Any]:
    """Describe the machine of this run, for a reader of the report."""
    p50, p99 = fdatasync_ms(directory)
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model[0].partition(":")[2].strip() if model else "",
        "load": [round(value, 2) for value in os.getloadavg()],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "fdatasync_ms": {"p50": round(p50, 3), "p99": round(p99, 3)},
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
