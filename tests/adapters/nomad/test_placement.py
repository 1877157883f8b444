"""The scheduler's accounts, as people read them."""

import pytest

from opencode_lifecycle.adapters.nomad.placement import placement_failure, placement_of
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.ports.orchestrator import Placement


def blocked(**metric: object) -> dict[str, object]:
    return {
        "Status": "blocked",
        "CreateIndex": 5,
        "FailedTGAllocs": {"opencode": {"NodesEvaluated": 3, "NodesAvailable": {"dc1": 3}, **metric}},
    }


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ({"DimensionExhausted": {"memory": 2}}, "no node can take it: 2 nodes without enough memory"),
        (
            {"ConstraintFiltered": {"missing compatible host volumes": 1}},
            "no node can take it: 1 node without its workspace volume, or where the volume is still claimed",
        ),
        (
            {"ConstraintFiltered": {"${attr.kernel.name} = windows": 3}},
            "no node can take it: 3 nodes excluded by ${attr.kernel.name} = windows",
        ),
        ({"ClassFiltered": {"small": 1}}, "no node can take it: 1 node of class small excluded"),
        ({"QuotaExhausted": ["cpu"]}, "no node can take it: quota used up: cpu"),
        (
            {"NodesAvailable": {"dc1": 0}, "NodePool": "agents"},
            "no node is available in node pool agents and the datacenters of the job",
        ),
        ({}, "no node can take it: 3 nodes looked at"),
    ],
)
def test_an_account_is_one_sentence(metric, sentence):
    assert placement_failure([blocked(**metric)]) == sentence


def test_an_evaluation_that_placed_everything_is_no_failure():
    assert placement_failure([{"Status": "complete", "CreateIndex": 9}]) is None


def test_no_evaluation_is_no_failure():
    assert placement_failure([]) is None


def test_the_blocked_evaluation_counts_among_finished_ones():
    evaluations = [{"Status": "complete", "CreateIndex": 9}, blocked(DimensionExhausted={"cpu": 1})]

    assert placement_failure(evaluations) == "no node can take it: 1 node without enough cpu"


def test_a_failed_evaluation_is_told_by_its_description():
    failed = {"Status": "failed", "CreateIndex": 9, "StatusDescription": "maximum attempts reached (5)"}

    assert placement_failure([failed]) == "maximum attempts reached (5)"


def test_an_account_has_an_end():
    metric = {"ConstraintFiltered": {f"constraint {number}": 1 for number in range(1000)}}

    assert len(placement_failure([blocked(**metric)])) <= 512


def test_a_plan_that_places_everything_is_possible():
    assert placement_of({"Annotations": {}, "FailedTGAllocs": None}) == Placement(failure=None)


def test_a_plan_tells_why_it_places_nothing():
    plan = {"Annotations": {}, "FailedTGAllocs": blocked(DimensionExhausted={"cpu": 1})["FailedTGAllocs"]}

    planned = placement_of(plan)

    assert planned == Placement(failure="no node can take it: 1 node without enough cpu")


@pytest.mark.parametrize("answer", [None, [], 7, {}, {"JobModifyIndex": 5}])
def test_an_answer_that_is_no_plan_does_not_say_that_everything_could_be_placed(answer):
    with pytest.raises(UpstreamNonsense):
        placement_of(answer)
