"""Reading a request's body: bounded, of the right type, unambiguous JSON, and then exactly what the call takes."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar, cast

from aiohttp import web
from pydantic import ValidationError

from opencode_lifecycle.api.schemas import Incoming
from opencode_lifecycle.model.errors import BodyFault, InvalidBody, InvalidRequest

Body = TypeVar("Body", bound=Incoming)

MAX_DEPTH: Final = 16
_REMEMBERED: Final = 512
_WORTH_REMEMBERING: Final = 2048
_LONGEST_NUMBER: Final = 64
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyReader:
    """
    Reads bodies, each within *seconds* once its headers are there.

    Callers send the same few bodies again and again, so the latest small ones are remembered with what they mean.
    """

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._empty: dict[type[Incoming], Incoming] = {}
        self._remembered: dict[tuple[type[Incoming], bytes], Incoming] = {}

    async def read(self, request: web.Request, takes: type[Body]) -> Body:
        """Return the body of *request* as *takes*. No body at all counts as `{}`."""
        if not request.body_exists:
            return self._nothing(takes)
        raw = await self._bytes(request)
        if not raw:
            return self._nothing(takes)
        _check_headers(request)
        known = self._remembered.get((takes, raw))
        if known is None:
            known = validate(takes, parse_json(raw))
            if len(raw) <= _WORTH_REMEMBERING:
                if len(self._remembered) >= _REMEMBERED:
                    del self._remembered[next(iter(self._remembered))]
                self._remembered[takes, raw] = known
        return cast("Body", known)

    def _nothing(self, takes: type[Body]) -> Body:
        if takes not in self._empty:
            self._empty[takes] = validate(takes, {})
        return cast("Body", self._empty[takes])

    async def _bytes(self, request: web.Request) -> bytes:
        length = request.content_length
        if length is not None and length > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(self._max_bytes)
        if length != 0:
            _check_headers(request)
            if request.headers.get("Expect") is not None and request.can_read_body:
                await request.writer.write(_CONTINUE)
                request.writer.output_size = 0
        try:
            async with asyncio.timeout(self._seconds):
                raw = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        except web.RequestPayloadError:
            raise InvalidRequest("The body ended early or is not framed as HTTP says.") from None
        # One that did not say its length: the server reads up to the largest body of all.
        if len(raw) > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(self._max_bytes)
        return raw


def _check_headers(request: web.Request) -> None:
    """Refuse what is not plain JSON in UTF-8."""
    headers = request.headers
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise web.HTTPUnsupportedMediaType
    types = headers.getall("Content-Type", ())
    media_type, _, parameters = (types[0] if len(types) == 1 else "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise web.HTTPUnsupportedMediaType


def parse_json(raw: bytes) -> Any:
    """
    Parse *raw*, or raise `InvalidRequest`.

    Refused is all that two parsers might read differently: duplicate keys, numbers that are none or do not fit, lone
    surrogates, a byte order mark, anything after the value, and nesting deeper than any body of ours.
    """
    try:
        value = json.loads(
            raw.decode("utf-8", "strict"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    _check_nesting(value, MAX_DEPTH)
    return value


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidRequest("The body names a member of an object twice.")
    return members


def _refuse_constant(text: str) -> NoReturn:
    del text
    raise InvalidRequest("The body has a number that JSON does not know.")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise InvalidRequest("The body has a number that is too large.")
    return number


def _short(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise InvalidRequest("The body has a number that is too large.")
    return int(text)


def _check_nesting(value: Any, levels: int) -> None:
    if levels == 0:
        raise InvalidRequest("The body is nested too deeply.")
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_text(name)
            _check_nesting(member, levels - 1)
    elif isinstance(value, list):
        for item in value:
            _check_nesting(item, levels - 1)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("The body has half of a surrogate pair.") from None


def validate(takes: type[Body], value: Any) -> Body:
    """Return *value* as *takes*, or raise `InvalidBody` with a pointer to everything that is wrong."""
    try:
        return takes.model_validate(value)
    except ValidationError as error:
        raise InvalidBody(
            [
                BodyFault(_pointer(fault["loc"], fault.get("ctx")), _lowered(fault["msg"]))
                for fault in error.errors(include_url=False, include_input=False)
            ]
        ) from None


def _pointer(location: Sequence[int | str], context: Mapping[str, Any] | None) -> str:
    """Write *location* as RFC 6901 says; a fault that is not of one place brings its own pointer."""
    if context is not None and "pointer" in context:
        return str(context["pointer"])
    parts = [str(part) for part in location]
    if parts and parts[-1] == "[key]":  # the fault is the name of this member, not its value
        del parts[-1]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
