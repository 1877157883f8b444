"""A password in flight. It prints as dots everywhere; only `reveal()` gives it away."""

from dataclasses import dataclass


class Password:
    """Hold a secret so that no log line, error, debugger or assertion shows it by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Password(••••)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedPassword:
    """A Vault wrapping token that can be opened once, within `ttl_seconds`."""

    token: Password
    ttl_seconds: int
