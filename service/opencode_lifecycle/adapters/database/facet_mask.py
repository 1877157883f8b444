"""
A set of facets as one number, so that a fleet can be counted by an index.

Bit *n* stands for the facet at place *n* of `BITS`. Numbers in a database outlive this code: places are never given away
again, and new facets come at the end. One bit high above them tells of edits from outside what the facet alone does not.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from opencode_lifecycle.model.facets import Facet

BITS: Final = (
    Facet.IMAGE,
    Facet.OPENCODE_VERSION,
    Facet.TEMPLATE,
    Facet.ENVIRONMENT,
    Facet.RESOURCES,
    Facet.SECRET_VERSION,
    Facet.PROMPT,
    Facet.CONFIG,
    Facet.LABELS,
    Facet.ENDPOINTS,
    Facet.EDITED_OUTSIDE,
    Facet.MISSING,
)
_BIT: Final = {facet: 1 << place for place, facet in enumerate(BITS)}
EDITS_RESTART: Final = 1 << 30
"""Set beside `EDITED_OUTSIDE` where taking the edits back restarts the runtime."""
_NONE: Final[frozenset[Facet]] = frozenset()


def mask_of(facets: Iterable[Facet], *, edits_restart: bool = False) -> int:
    """Return the number of *facets*; whether edits restart counts only where there are some."""
    mask = sum(_BIT[facet] for facet in facets)
    return mask | EDITS_RESTART if edits_restart and mask & _BIT[Facet.EDITED_OUTSIDE] else mask


@lru_cache(maxsize=1024)
def facets_in_mask(mask: int) -> frozenset[Facet]:
    """Return the facets of *mask*; equal masks share one set, since most of a fleet is alike."""
    return frozenset(facet for facet, bit in _BIT.items() if mask & bit) if mask else _NONE
