"""How whatever failed is told again: a seed, a told fault, or a point to die or to fail at. One command each."""

import shlex
import sys

from simulation import crashes, scenarios
from simulation.schedule import Outcome, Schedule


def command(seed: int, *, story: str = "", point: str = "", replicas: int = 1) -> str:
    """Return the line for a shell that tells the story of *seed* again, of a told fault or at a point where there is one."""
    words = [sys.executable, "-m", "simulation"]
    words += ["--story", story] if story else []
    words += ["--point", point] if point else []
    words += ["--replicas", str(replicas)] if point and replicas > 1 else []
    return f"    PYTHONPATH=tests {shlex.join([*words, '--replay', str(seed)])}"


def replay(seed: int, *, story: str | None = None, point: str | None = None, replicas: int = 1) -> Outcome:
    """Run it again, as it ran when it failed."""
    if point is not None:
        outcome, really = crashes.run(crashes.Point.named(point), seed, replicas=replicas)
        outcome.violation = outcome.violation or (None if really else "it never came to this point")
        return outcome
    script = scenarios.named(story).script() if story is not None else None
    return Schedule(seed, script).run()
