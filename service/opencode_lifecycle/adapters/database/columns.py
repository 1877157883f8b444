"""
Column types that mean the same on SQLite and on PostgreSQL.

Text that is compared or sorted is compared byte by byte on both, so that ids which differ only in case, or prefix one
another, are told apart and paged alike everywhere.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from sqlalchemy import JSON, BigInteger, Column, DateTime, Dialect, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

_ALIKE: Final = 2048
"""Bytes of a document that may be the same for many. Larger ones, such as a release, are read now and then."""
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL, and not a backslash of its own followed by `u0000`."""


class Instant(TypeDecorator[datetime]):
    """A moment: aware going in, aware and in UTC coming out. SQLite keeps no zone, so all of it is UTC there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        # At a start a whole fleet is read, ten times in each row.
        return _moment_of if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        del dialect  # never SQLite's
        return None if value is None else value.astimezone(UTC)


def _moment_of(text: str | None) -> datetime | None:
    """Read a moment as SQLAlchemy writes it into SQLite's text."""
    return None if text is None else datetime.fromisoformat(f"{text}+00:00")


class Prose(TypeDecorator[str]):
    """Words of others, such as a scheduler's account. What PostgreSQL cannot hold is replaced, never refused."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        del dialect
        return None if value is None else storable(value)


def storable(text: str) -> str:
    """Return *text* without NUL and half surrogates, which no PostgreSQL column takes."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def json_text(value: Any) -> str:
    """
    Write a JSON document that both databases take.

    PostgreSQL refuses an escaped NUL and half a surrogate; a worker must not fail for ever because somebody's error
    message contains one.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED_NUL.sub(r"\1\\ufffd", storable(text)) if "\\u0000" in text else storable(text)


def json_value(text: str | bytes) -> Any:
    """
    Read a JSON document that is kept in a database.

    Most of a fleet is alike, and so are its documents: what is the same is one object, which nobody may change.
    """
    return _read_once(text) if len(text) <= _ALIKE else orjson.loads(text)


@lru_cache(maxsize=4096)
def _read_once(text: str | bytes) -> Any:
    return orjson.loads(text)


def identifier(name: str, *constraints: Any, nullable: bool = False, **options: Any) -> Column[str]:
    """Build a column of text that is compared byte by byte."""
    kind = String().with_variant(String(collation="C"), "postgresql")
    return Column(name, kind, *constraints, nullable=nullable, **options)


def prose(name: str, *, nullable: bool = False, **options: Any) -> Column[str]:
    return Column(name, Prose(), nullable=nullable, **options)


def number(name: str, *, nullable: bool = False, **options: Any) -> Column[int]:
    return Column(name, BigInteger(), nullable=nullable, **options)


def instant(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, Instant(), nullable=nullable)


def document(name: str, *, nullable: bool = False, **options: Any) -> Column[Any]:
    """Build a column for a JSON document. A nullable one stores None as NULL, not as the JSON value null."""
    kind = JSON(none_as_null=nullable).with_variant(JSONB(none_as_null=nullable), "postgresql")
    return Column(name, kind, nullable=nullable, **options)
