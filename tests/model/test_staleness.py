"""In what a stack is not as it should be: what each facet is told with."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from database_examples import FACETS
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.stack import FieldEdit, Status
from opencode_lifecycle.model.staleness import Severity, Staleness, staleness_of
from opencode_lifecycle.model.states import Desired, Phase, Reason

RUNNING = Status(phase=Phase.RUNNING, phase_since=datetime(2026, 11, 24, tzinfo=UTC), facets=FACETS)
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


def found(status: Status, *, desired: Desired = Desired.RUNNING) -> list[tuple[object, ...]]:
    reasons = staleness_of(status, FACETS, desired=desired)
    assert all(isinstance(each, Staleness) for each in reasons)
    return [(each.facet, each.have, each.want, each.severity, each.restart) for each in reasons]


@pytest.mark.parametrize(
    ("facet", "has", "severity", "restart"),
    [
        (Facet.IMAGE, "opencode:1", WARNING, True),
        (Facet.OPENCODE_VERSION, "1.18.33", WARNING, True),
        (Facet.TEMPLATE, "t0", INFO, True),
        (Facet.ENVIRONMENT, "e0", INFO, True),
        (Facet.RESOURCES, "r0", INFO, True),
        (Facet.SECRET_VERSION, 1, CRITICAL, True),
        (Facet.PROMPT, "p0", INFO, False),
        (Facet.CONFIG, "c0", INFO, False),
        (Facet.LABELS, "l0", INFO, False),
        (Facet.ENDPOINTS, "n0", INFO, False),
    ],
)
def test_a_facet_is_told_with_what_it_is_and_should_be(facet, has, severity, restart):
    status = replace(RUNNING, facets=replace(FACETS, **{facet.value: has}))

    wanted = str(getattr(FACETS, facet.value))
    assert found(status) == [(facet, str(has), wanted, severity, restart)]


@pytest.mark.parametrize("restart", [False, True])
def test_an_edit_is_told_field_by_field_and_restarts_as_nomad_says(restart):
    edits = (
        FieldEdit(field="Priority", have="70", want="50"),
        FieldEdit(field="Meta[note]", have="x", want=""),
    )

    assert found(replace(RUNNING, edits=edits, edits_restart=restart)) == [
        (
            Facet.EDITED_OUTSIDE,
            "Priority = 70; Meta[note] = x",
            "Priority = 50; Meta[note] = absent",
            WARNING,
            restart,
        )
    ]


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.STARTING, Phase.FAILED])
def test_what_vanished_is_missing_until_it_runs_again(phase):
    lost = replace(RUNNING, phase=phase, reason=Reason.LOST, message="its allocation has ended")
    waits = replace(lost, reason=Reason.NO_CAPACITY, message="no room", stale=frozenset({Facet.MISSING}))

    assert found(lost) == [(Facet.MISSING, "its allocation has ended", "running", CRITICAL, True)]
    assert found(waits) == [(Facet.MISSING, "no room", "running", CRITICAL, True)]
    assert found(replace(RUNNING, stale=frozenset({Facet.MISSING}))) == []


def test_all_that_differs_is_told_in_the_order_of_the_facets():
    other = replace(FACETS, labels="l0", image="opencode:1", secret_version=1)

    assert [facet for facet, *_ in found(replace(RUNNING, facets=other))] == [
        Facet.IMAGE,
        Facet.SECRET_VERSION,
        Facet.LABELS,
    ]


@pytest.mark.parametrize("desired", [Desired.STOPPED, Desired.DELETED])
def test_what_is_not_meant_to_run_is_stale_in_nothing(desired):
    assert found(replace(RUNNING, facets=replace(FACETS, image="opencode:1")), desired=desired) == []


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.STARTING, Phase.STOPPED])
def test_what_does_not_run_starts_on_what_is_wanted(phase):
    assert found(replace(RUNNING, phase=phase, facets=replace(FACETS, image="opencode:1"))) == []
