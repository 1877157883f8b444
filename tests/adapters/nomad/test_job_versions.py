"""Which version of its job an allocation of an event runs, as far as that need not be asked."""

import pytest

from opencode_lifecycle.adapters.nomad.job_versions import JobVersions
from opencode_lifecycle.adapters.nomad.reading import allocation_seen, job_seen
from opencode_lifecycle.model.identifiers import JobId

JOB = JobId("oc-ada-aaaaaaaaaaaaaaaaaaaa")


@pytest.fixture
def versions():
    """Give versions that know the third registration of a job, which was made at index 30, and its evaluation."""
    versions = JobVersions()
    versions.learn_job(a_job(version=2, index=30))
    versions.learn_evaluation(JOB, "eval-30", 30)
    return versions


def a_job(*, version, index):
    return job_seen(
        "test", {"ID": JOB, "Version": version, "JobModifyIndex": index, "Stop": False, "Meta": {}}
    )


def an_allocation(**changes):
    return {
        "ID": "alloc",
        "JobID": JOB,
        "NodeID": "node",
        "NodeName": "node",
        "EvalID": "eval-30",
        "DesiredStatus": "run",
        "ClientStatus": "pending",
        "CreateIndex": 31,
        "ModifyIndex": 31,
        **changes,
    }


def test_one_that_was_made_for_the_newest_registration_runs_its_version(versions):
    assert versions.of_allocation(JOB, an_allocation(), placed=True) == 2


def test_one_that_was_made_for_a_registration_that_is_not_known_is_asked(versions):
    versions.learn_evaluation(JOB, "eval-35", 35)

    assert versions.of_allocation(JOB, an_allocation(EvalID="eval-35"), placed=True) is None


def test_one_that_was_planned_while_the_job_was_registered_anew_is_asked(versions):
    versions.learn_job(a_job(version=3, index=31))

    assert versions.of_allocation(JOB, an_allocation(CreateIndex=32, ModifyIndex=32), placed=True) is None


def test_one_of_an_older_evaluation_than_the_newest_is_asked(versions):
    assert versions.of_allocation(JOB, an_allocation(EvalID="eval-20"), placed=True) is None


def test_one_that_the_scheduler_changed_in_place_is_asked(versions):
    learn(versions, an_allocation(CreateIndex=11, ModifyIndex=11), version=1)

    assert versions.of_allocation(JOB, an_allocation(CreateIndex=11), placed=True) is None


def test_one_that_the_scheduler_stops_keeps_the_version_that_was_learnt(versions):
    learn(versions, an_allocation(CreateIndex=11, ModifyIndex=11), version=1)

    stopped = an_allocation(CreateIndex=11, DesiredStatus="stop")
    assert versions.of_allocation(JOB, stopped, placed=True) == 1


def test_one_that_is_stopped_and_was_never_seen_is_asked(versions):
    assert versions.of_allocation(JOB, an_allocation(DesiredStatus="stop"), placed=True) is None


def test_of_a_job_that_was_forgotten_everything_is_asked(versions):
    versions.forget_job(JOB)
    versions.learn_job(a_job(version=2, index=30))

    assert versions.of_allocation(JOB, an_allocation(), placed=True) is None


def learn(versions, allocation, *, version):
    versions.learn_allocation(allocation_seen("test", {**allocation, "JobVersion": version}))
