"""What an allocation uses, from the statistics of its client."""

from typing import Any, Final

from opencode_lifecycle.adapters.nomad.reading import mapping
from opencode_lifecycle.ports.orchestrator import Usage

OPERATION: Final = "usage"


def usage_of(statistics: Any) -> Usage:
    """
    Read the memory that the kernel counts for the allocation.

    Without cgroups Nomad measures nothing and says 0, which no running program uses: that is not known, then.
    """
    usage = mapping(OPERATION, statistics).get("ResourceUsage")
    memory = usage.get("MemoryStats") if isinstance(usage, dict) else None
    counted = [memory.get(name) for name in ("RSS", "Usage")] if isinstance(memory, dict) else []
    known = [value for value in counted if isinstance(value, int) and value > 0]
    return Usage(memory=max(known) if known else None)
