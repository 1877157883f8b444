"""A requests session for servers that are not to be trusted with our time, our memory or our secrets."""

from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from time import monotonic
from typing import Any, Final

import requests

from opencode_lifecycle.model.deadline import Deadline

LARGEST_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of one answer. Far above what a call of ours returns, far below what would hurt."""
_CHUNK: Final = 65536
_SHORTEST_PATIENCE: Final = 0.05
_SHARE_OF_DEADLINE: Final = 0.9


class AnswerTooLarge(requests.RequestException):
    """The server sent more than we read."""


class BoundedSession(requests.Session):
    """
    Answers are read up to a bound and within `patience` seconds; redirects, cookies, proxies and netrc are not followed.

    One session serves one thread. `give_up_before` is said before each call; `status` is that of the last answer.
    """

    def __init__(self, *, ca_file: Path | None = None, largest_answer: int = LARGEST_ANSWER) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = str(ca_file) if ca_file is not None else True
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._patience = 0.0
        self.status: int | None = None
        self._largest_answer = largest_answer

    def give_up_before(self, deadline: Deadline) -> None:
        """Take less time than *deadline* leaves, so that the thread is free again before its caller goes on."""
        self._patience = max(_SHORTEST_PATIENCE, deadline.left() * _SHARE_OF_DEADLINE)

    def request(  # type: ignore[override]  # requests spells out its keywords; they pass through here
        self, method: str | bytes, url: str | bytes, **kwargs: Any
    ) -> requests.Response:
        """Send one request. Whatever timeout and redirect rule a client library asks for, ours are in force."""
        self.status = None
        ends_at = monotonic() + self._patience
        kwargs |= {"timeout": self._patience, "stream": True, "allow_redirects": False}
        response = super().request(method, url, **kwargs)
        with response:
            self.status = response.status_code
            self._read(response, ends_at)
        return response

    def _read(self, response: requests.Response, ends_at: float) -> None:
        """
        Read the body piece by piece, as it comes.

        A socket timeout starts anew with each byte, so that a server which drips would hold the thread for ever.
        """
        body = bytearray()
        while piece := response.raw.read1(_CHUNK, decode_content=True):
            body += piece
            if len(body) > self._largest_answer:
                raise AnswerTooLarge
            if monotonic() > ends_at:
                raise requests.ReadTimeout
        response._content = bytes(body)  # noqa: SLF001  # how requests itself keeps a body that was read
        response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001  # likewise
