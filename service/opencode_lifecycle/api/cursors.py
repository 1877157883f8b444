"""Cursors: where a list goes on. Opaque to clients, and refused when they are not what this service gave out."""

import base64
import binascii
import json
import re
from typing import Final

from opencode_lifecycle.model.errors import InvalidRequest
from opencode_lifecycle.model.facets import digest_of

_VERSION: Final = 1
_LONGEST: Final = 512
_PLAUSIBLE: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


def seal(collection: str, filters: object, after: str) -> str:
    """Make the cursor that continues *collection*, selected by *filters*, behind *after*."""
    content = {"after": after, "check": digest_of([collection, filters, after]), "v": _VERSION}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def unseal(collection: str, filters: object, cursor: str) -> str:
    """
    Return what *cursor* continues behind.

    A cursor of another list or other filters is refused, and so is one that was damaged or made up. The check needs no
    key: a cursor is only a position and grants nothing, since each list is filtered for who asks.
    """
    refused = InvalidRequest("The cursor is not one that this list gave out.")
    if len(cursor) > _LONGEST or _PLAUSIBLE.match(cursor) is None:
        raise refused
    try:
        content = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        after = content["after"]
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError):
        raise refused from None
    if not isinstance(after, str) or seal(collection, filters, after) != cursor:
        raise refused
    return after
