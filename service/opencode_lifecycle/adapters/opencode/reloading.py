"""
Letting version 1 of OpenCode read its configuration anew.

It disposes of what it has loaded of every directory, which aborts what is at work there, and loads each again when it is
next asked for. A configuration that it cannot load then keeps the directory from answering until the process is started
anew, also when the file is put right; its health says nothing of it.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from opencode_lifecycle.adapters.opencode.answers import json_of, object_of, refusal_of, shown, unexpected
from opencode_lifecycle.adapters.opencode.exchange import Answer, Credentials, Exchange, Silence
from opencode_lifecycle.adapters.opencode.sessions import directories_of, latest_sessions
from opencode_lifecycle.ports.prober import Reloaded, ReloadResult

MOST_LOADED: Final = 5
"""Loading a directory takes about a second of processor time, so that only those of the latest sessions are tried."""
_DISPOSE: Final = "/global/dispose"
_CONFIGURATION: Final = "/config"


async def reload(exchange: Exchange, credentials: Credentials) -> Reloaded:
    """Reload and look whether the server's own directory answers, and those of the latest sessions."""
    before = await _configuration_of(None, exchange, credentials)
    refusal = refusal_of(before)
    if refusal is not None:
        return Reloaded(result=ReloadResult.NOT_ASKED, detail=refusal[1])
    if _is_bad(before):
        return Reloaded(
            result=ReloadResult.BAD_CONFIG, detail="it could not load its configuration even before this"
        )
    sessions = await latest_sessions(exchange, credentials)
    disposed = await exchange.post(_DISPOSE, credentials=credentials)
    if json_of(disposed) is not True:
        _, detail = unexpected("the request to reload", disposed)
        return Reloaded(result=ReloadResult.UNKNOWN, detail=detail)
    own = await _configuration_of(None, exchange, credentials)
    if _is_bad(own):
        return Reloaded(result=ReloadResult.BAD_CONFIG, detail="it cannot load its configuration")
    if object_of(own) is None:
        return Reloaded(
            result=ReloadResult.UNKNOWN, detail=unexpected("the request for its configuration", own)[1]
        )
    return await _others(directories_of(sessions or (), most=MOST_LOADED), exchange, credentials)


async def _others(directories: Sequence[str], exchange: Exchange, credentials: Credentials) -> Reloaded:
    """Look at what users work on. A directory that fails while the server's own answers fails by a file of its own."""
    broken: list[str] = []
    for directory in directories:
        answer = await _configuration_of(directory, exchange, credentials)
        if isinstance(answer, Silence):
            return Reloaded(result=ReloadResult.UNKNOWN, detail=answer.value, broken=broken)
        if object_of(answer) is None:
            broken.append(shown(directory, credentials))
    return Reloaded(result=ReloadResult.RELOADED, broken=broken)


async def _configuration_of(
    directory: str | None, exchange: Exchange, credentials: Credentials
) -> Answer | Silence:
    query = {} if directory is None else {"directory": directory}
    return await exchange.get(_CONFIGURATION, query=query, credentials=credentials)


def _is_bad(answer: Answer | Silence) -> bool:
    return isinstance(answer, Answer) and answer.is_json and answer.status == HTTPStatus.BAD_REQUEST
