"""Which failures of a database are weather, and which are defects of ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolExhausted

from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable

_SQLITE: Final = {
    "SQLITE_BUSY": "another process holds the database",
    "SQLITE_LOCKED": "another process holds the database",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk cannot be read or written",
    "SQLITE_CANTOPEN": "the file cannot be opened",
    "SQLITE_READONLY": "the file cannot be written",
    "SQLITE_PERM": "the file cannot be written",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_NOTADB": "the file is not a database",
    "SQLITE_NOMEM": "memory ran out",
    "SQLITE_PROTOCOL": "another process holds the database",
}

_POSTGRESQL: Final = {
    "08": "the connection is lost",
    "25P03": "a transaction stood still for too long",
    "28": "the server refuses our login",
    "3D": "there is no such database",
    "40": "another transaction was in the way",
    "53100": "the disk is full",
    "53": "the server is out of resources",
    "55P03": "another transaction holds the lock",
    "57014": "the server stopped a statement that took too long",
    "57": "the server is shutting down",
    "58": "the server cannot read or write its files",
}


@contextmanager
def translated(operation: str) -> Iterator[None]:
    """
    Let only errors of this service out of the body.

    What a later try may cure becomes `UpstreamUnavailable`, anything else that the database said `UpstreamRejected`. The
    statement's values are in neither.
    """
    try:
        yield
    except PoolExhausted:
        raise UpstreamUnavailable("database", operation, "all connections are in use") from None
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error, OSError) as error:
        weather = weather_of(error)
        if weather is not None:
            raise UpstreamUnavailable("database", operation, weather) from None
        # A defect can only be found by its statement. Values are hidden in it, and no secret is ever among them.
        raise UpstreamRejected("database", operation, _defect_in(error)) from error


def weather_of(error: BaseException) -> str | None:
    """Return what passing trouble *error* is, in words, or None when trying again cannot help."""
    seen: BaseException | None = error
    while seen is not None:
        words = _words_for(seen)
        if words is not None:
            return words
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None


def _defect_in(error: BaseException) -> str:
    words = str(getattr(error, "orig", ""))
    if "no such table" in words or "no such column" in words or "Undefined" in words:
        return "the schema is not the one this version needs"
    return type(error).__name__


def _words_for(error: BaseException) -> str | None:
    match error:
        case DBAPIError(connection_invalidated=True):
            return "the connection is lost"
        case sqlite3.Error():
            name = getattr(error, "sqlite_errorname", "") or ""
            return _longest_prefix(_SQLITE, name)
        case asyncpg.PostgresError():
            return _longest_prefix(_POSTGRESQL, error.sqlstate or "")
        case asyncpg.InterfaceError():
            return "the connection is lost"
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return "the server cannot be reached"
        case _:
            return None


def _longest_prefix(words: dict[str, str], code: str) -> str | None:
    fitting = [prefix for prefix in words if code.startswith(prefix)]
    return words[max(fitting, key=len)] if fitting else None
