"""Small questions to servers on this machine: alive, leader, sealed."""

import http.client
import json
from typing import Any, Final

_LIMIT: Final = 65536
_TIMEOUT_SECONDS: Final = 3.0
_OK: Final = 200


def ask(port: int, path: str, token_header: tuple[str, str] | None = None) -> Any:
    """Return the JSON that 127.0.0.1:*port* answers with status 200, or None for anything else."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path, headers=dict([token_header] if token_header else []))
        answer = connection.getresponse()
        body = answer.read(_LIMIT)
        return json.loads(body) if answer.status == _OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def answers(port: int, path: str) -> bool:
    """Tell whether 127.0.0.1:*port* answers *path* with status 200, whatever it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == _OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
