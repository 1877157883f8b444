"""How long to wait before trying again."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    Doubling from *first* up to *most* seconds, then spread over the upper half of that.

    The spread keeps a crowd that failed together from coming back together; the lower bound keeps one unlucky draw from
    trying again at once.
    """

    first: float
    most: float

    def seconds(self, attempts: int, random: Random) -> float:
        """Return the wait after *attempts* failures in a row (1 or more)."""
        ceiling = min(self.most, self.first * 2.0 ** min(attempts - 1, 32))
        return ceiling * (0.5 + random.random() / 2)
