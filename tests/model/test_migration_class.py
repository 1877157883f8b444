"""How much putting a stack right disturbs: the heaviest class among its reasons."""

import pytest

from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.staleness import NEEDS_RESTART, Severity, Staleness, class_of


def reason(facet: Facet, *, restart: bool | None = None) -> Staleness:
    needs = facet in NEEDS_RESTART if restart is None else restart
    return Staleness(facet=facet, have="a", want="b", severity=Severity.INFO, restart=needs)


@pytest.mark.parametrize(
    ("facets", "expected"),
    [
        ((), None),
        ((Facet.LABELS, Facet.ENDPOINTS), None),
        ((Facet.PROMPT,), MigrationClass.LIVE),
        ((Facet.PROMPT, Facet.LABELS), MigrationClass.LIVE),
        ((Facet.CONFIG,), MigrationClass.RELOAD),
        ((Facet.CONFIG, Facet.PROMPT), MigrationClass.RELOAD),
        ((Facet.IMAGE, Facet.CONFIG, Facet.PROMPT), MigrationClass.RESTART),
        ((Facet.SECRET_VERSION,), MigrationClass.RESTART),
    ],
)
def test_the_heaviest_reason_decides(facets, expected):
    assert class_of([reason(facet) for facet in facets]) is expected


@pytest.mark.parametrize(("restart", "expected"), [(True, MigrationClass.RESTART), (False, None)])
def test_of_an_edit_from_outside_nomads_own_plan_decides(restart, expected):
    assert class_of([reason(Facet.EDITED_OUTSIDE, restart=restart)]) is expected
