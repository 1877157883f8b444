"""Small questions to servers on this machine: alive, leader, sealed."""

import http.client
import json
from collections.abc import Mapping
from typing import Any, Final

_LIMIT: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 3.0
_OK: Final = 200


def exchange(
    method: str,
    port: int,
    path: str,
    headers: Mapping[str, str] | None = None,
    seconds: float = _TIMEOUT_SECONDS,
) -> tuple[int, bytes] | None:
    """Return status and body of what 127.0.0.1:*port* answers, or None when it does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(_LIMIT)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def ask(port: int, path: str, headers: Mapping[str, str] | None = None) -> Any:
    """Return the JSON that 127.0.0.1:*port* answers with status 200, or None for anything else."""
    answer = exchange("GET", port, path, headers)
    if answer is None or answer[0] != _OK:
        return None
    try:
        return json.loads(answer[1])
    except ValueError:
        return None


def answers(port: int, path: str) -> bool:
    """Tell whether 127.0.0.1:*port* answers *path* with status 200, whatever it says."""
    answer = exchange("GET", port, path)
    return answer is not None and answer[0] == _OK
