"""The last step of `up`: one real runtime, for the user `demo`, proven healthy."""

import asyncio
import json
import time
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from opencode_lifecycle.cluster import loopback
from opencode_lifecycle.cluster.errors import ClusterError
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.progress import Progress
from opencode_lifecycle.cluster.record import Record

USER: Final = "demo"
_PATIENCE: Final = timedelta(minutes=5)
_WAIT_SECONDS: Final = 60
_READY: Final = 200
_UNAUTHORIZED: Final = 401
_REFUSED: Final = range(400, 500)
_LATER: Final = frozenset({409, 429})
_PAUSE_SECONDS: Final = 1.0


async def ensure(layout: Layout, record: Record, progress: Progress) -> dict[str, Any]:
    """Ensure the demo user's stack until it is proven, and return it; raise `ClusterError` with the service's reason."""
    token = (layout.tokens / "backend").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    path = f"/v1/stacks/{USER}?wait={_WAIT_SECONDS}s"
    end = time.monotonic() + _PATIENCE.total_seconds()
    said = "no answer yet"
    while time.monotonic() < end:
        progress.step(f"OpenCode for the user {USER}: {said}")
        answer = await asyncio.to_thread(
            loopback.exchange, "PUT", record.ports["service"], path, headers, _WAIT_SECONDS + 10
        )
        status, body = (answer[0], _read(answer[1])) if answer is not None else (0, {})
        if status == _READY and await asyncio.to_thread(_is_guarded, body):
            return body
        said = _say(status, body)
        if status in _REFUSED and status not in _LATER:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    raise ClusterError(
        f"Everything runs, but the user {USER} has no OpenCode: {said}. See {layout.log('service')}"
    )


def _is_guarded(stack: dict[str, Any]) -> bool:
    """Tell whether the stack's server is there and asks for a password."""
    runtime = stack.get("runtime") or {}
    address = urlsplit((runtime.get("addresses") or {}).get("internal") or "")
    if address.port is None:
        return False
    answer = loopback.exchange("GET", address.port, "/global/health")
    return answer is not None and answer[0] == _UNAUTHORIZED


def _read(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _say(status: int, body: dict[str, Any]) -> str:
    parts = [str(body[name]) for name in ("phase", "reason", "message", "detail") if body.get(name)]
    return ", ".join(parts) or (f"status {status}" if status else "the service does not answer")
