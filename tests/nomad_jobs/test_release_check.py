"""What Nomad says to the template of a release, and where that is told."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.lifecycle.requests.release_checks import ReleaseChecks, ReleaseRules
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import InvalidBody
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.ports.config_check import NoConfigCheck
from opencode_lifecycle.shipped import shipped
from world import SITE, content

pytestmark = pytest.mark.servers


@pytest.fixture
async def checks(cluster) -> AsyncIterator[ReleaseChecks]:
    nomad = Nomad(address=cluster.nomad_address, token_file=cluster.nomad_token_file, namespace="opencode")
    yield ReleaseChecks(
        rules=ReleaseRules(default_resources="small"),
        orchestrator=nomad,
        config_check=NoConfigCheck(),
        site=replace(SITE, opencode_path="/opt/{version}/opencode"),
        namespace="opencode",
        region="global",
        now=utc_now,
        upstream_timeout=timedelta(seconds=10),
    )
    await nomad.close()


def a_release(driver: str, **changes: str) -> Release:
    template = shipped(f"nomad_jobs/opencode-{driver}.nomad.hcl").read_text()
    values = {"template": template, "image": "registry.example/opencode:1", **changes}
    return content(**values).release(now=utc_now(), created_by="olga")


async def fault(checks: ReleaseChecks, release: Release) -> str:
    with pytest.raises(InvalidBody) as refused:
        await checks.check(release, release)
    [found] = refused.value.faults
    assert found.pointer == "/template"
    return found.detail


@pytest.mark.parametrize("driver", ["raw-exec", "docker"])
async def test_our_own_templates_are_accepted(checks, driver):
    said = await checks.check(a_release(driver), a_release(driver))

    assert said["template"] == "accepted by Nomad"
    assert said["config"].startswith("not checked: ")


async def test_a_template_that_is_no_job_is_refused_with_nomads_words_and_their_place(checks):
    template = a_release("raw-exec").template.replace("count = 1", "count = 1\n    no_such_thing = 2")

    said = await fault(checks, a_release("raw-exec", template=template))

    assert "no_such_thing" in said
    assert "input.hcl:" in said


async def test_a_template_that_parses_and_is_no_job_is_refused_with_nomads_words(checks):
    template = a_release("raw-exec").template.replace("count = 1", "count = -1")

    said = await fault(checks, a_release("raw-exec", template=template))

    assert "Task group count can't be negative" in said
    assert "\n" not in said


async def test_a_value_that_the_template_does_not_take_is_refused_with_its_reason(checks):
    said = await fault(checks, a_release("docker", image="no image at all"))

    assert "image" in said


async def test_a_template_that_calls_its_job_by_another_name_is_refused(checks):
    template = a_release("raw-exec").template.replace("id          = var.job_id", 'id          = "mine"')

    said = await fault(checks, a_release("raw-exec", template=template))

    assert "does not use job_id as the job's id" in said
