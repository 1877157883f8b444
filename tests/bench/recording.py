"""What was recorded of a real Nomad by `bench.record`."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "nomad-1.11.3.json.gz"


@cache
def recording() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return found
