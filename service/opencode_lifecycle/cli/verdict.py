"""What one check of the doctor found."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NOTHING_TO_DO: Final = "nothing"
"""How advice begins where there is nothing for a person to do."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Worth knowing; nothing of ours fails because of it."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`code` is stable and for machines, empty when all is well; `advice` says what to do."""

    check: str
    level: Level
    detail: str
    code: str = ""
    advice: str = ""


def fine(check: str, detail: str) -> Verdict:
    return Verdict(check=check, level=Level.OK, detail=detail)


def doubtful(check: str, code: str, detail: str, advice: str) -> Verdict:
    return Verdict(check=check, level=Level.WARNING, detail=detail, code=code, advice=advice)


def wrong(check: str, code: str, detail: str, advice: str) -> Verdict:
    return Verdict(check=check, level=Level.FAILED, detail=detail, code=code, advice=advice)
