"""What Nomad makes of the job templates: values are taken literally, and the result is the one that is held."""

import copy
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from contracts.orchestrator_worlds import new_job_id, soon
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.shipped import shipped

TEMPLATES = {
    driver: shipped(f"nomad_jobs/opencode-{driver}.nomad.hcl").read_text()
    for driver in ("raw-exec", "docker")
}
VALUES = {
    "job_id": "oc-ada-aaaaaaaaaaaaaaaaaaaa",
    "user_id": "ada@example.org",
    "installation": "main",
    "image": "registry.example/opencode@sha256:" + "0" * 64,
    "opencode_version": "1.18.34",
    "template_digest": "1" * 16,
    "environment_digest": "2" * 16,
    "resources_digest": "3" * 16,
    "secret_version": 7,
    "revision": "4" * 16,
    "cpu": 250,
    "memory": 512,
    "memory_max": 1024,
    "environment": {"COLOUR": "green"},
    "secret_environment": ["MODEL_KEY", "OTHER_KEY"],
    "secret_path": "kv/data/opencode/oc-ada-aaaaaaaaaaaaaaaaaaaa",
    "workspace_path": "/volumes/ada",
    "entrypoint": ["/usr/local/bin/opencode-entrypoint"],
    "description": "The server of *ada*.",
    "public_url": "https://oc-ada-aaaaaaaaaaaaaaaaaaaa.agents.example",
    "labels": {"team": "core"},
}
HARMLESS = (
    "quotes \" and ' and `ticks` \\ and\nnewlines\ttabs %{ if true }x%{ endif } $HOME $(id) é✓ </script>"
)
FORBIDDEN = [
    "${attr.unique.hostname}",
    "a${env.HOME}",
    '{{ key "x" }}',
    '{{ with secret "kv/data/opencode/x" }}',
]


@pytest.fixture
async def nomad(cluster) -> AsyncIterator[Nomad]:
    nomad = Nomad(address=cluster.nomad_address, token_file=cluster.nomad_token_file, namespace="opencode")
    yield nomad
    await nomad.close()


async def rendered(nomad: Nomad, driver: str, **changes: Any) -> Mapping[str, Any]:
    job = await nomad.render(TEMPLATES[driver], {**VALUES, **changes}, soon())
    return job.specification["Job"]


def task_of(job: Mapping[str, Any]) -> Mapping[str, Any]:
    return job["TaskGroups"][0]["Tasks"][0]


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_the_job_is_the_one_that_is_held(nomad, golden, driver):
    golden(f"opencode-{driver}.job.json", await rendered(nomad, driver))


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_nomad_accepts_the_job_and_plans_it(nomad, cluster, driver):
    job = await nomad.render(TEMPLATES[driver], {**VALUES, "job_id": new_job_id()}, soon())
    body = {"Job": job.specification["Job"], "Diff": False}

    path = f"/v1/job/{job.job_id}/plan"
    answer = await nomad._connection.put("plan", path, body, deadline=soon())

    # The test cluster has no docker, and the volume that the docker job claims is on no node of it.
    unplaced = {"raw-exec": None, "docker": {"opencode"}}[driver]
    assert (set(answer.body["FailedTGAllocs"]) if answer.body["FailedTGAllocs"] else None) == unplaced
    assert "Error" not in answer.body


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_the_job_runs_on_the_node_of_its_workspace_and_no_other(nomad, driver):
    job = await rendered(nomad, driver, workspace_node="3c241eb1-0000-4000-8000-000000000000")

    constraints = job["TaskGroups"][0]["Constraints"]
    assert [(each["LTarget"], each["Operand"], each["RTarget"]) for each in constraints] == [
        ("${node.unique.id}", "=", "3c241eb1-0000-4000-8000-000000000000")
    ]


@pytest.mark.parametrize("driver", TEMPLATES)
@pytest.mark.parametrize("name", ["environment", "labels", "description", "template_digest"])
async def test_a_value_is_taken_as_it_is(nomad, driver, name):
    value = (
        {"key": HARMLESS} if name == "labels" else {"KEY": HARMLESS} if name == "environment" else HARMLESS
    )

    job = await rendered(nomad, driver, **{name: value})

    found = {
        "environment": lambda: task_of(job)["Env"]["KEY"],
        "labels": lambda: task_of(job)["Services"][0]["Meta"]["key"],
        "description": lambda: job["UI"]["Description"],
        "template_digest": lambda: job["Meta"]["template"],
    }[name]()
    assert found == HARMLESS


@pytest.mark.parametrize("driver", TEMPLATES)
@pytest.mark.parametrize("text", FORBIDDEN)
@pytest.mark.parametrize(
    "name",
    [
        "job_id",
        "installation",
        "user_id",
        "image",
        "opencode_version",
        "environment",
        "secret_environment",
        "secret_path",
        "workspace_node",
        "workspace_path",
        "restore_snapshot",
        "bundles_path",
        "entrypoint",
        "opencode_path",
        "public_url",
        "labels",
    ],
)
async def test_what_nomad_would_interpret_later_is_refused(nomad, driver, name, text):
    as_map, as_list = {"environment": "NAME", "labels": "name"}, {"secret_environment", "entrypoint"}
    value = {as_map[name]: text} if name in as_map else [text] if name in as_list else text

    with pytest.raises(UpstreamRejected):
        await rendered(nomad, driver, **{name: value})


@pytest.mark.parametrize("driver", TEMPLATES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret_path", 'kv/data/x" }}{{ with secret "kv/data/y'),
        ("bundles_path", 'a" }}{{ env "X'),
        ("restore_snapshot", "../../etc"),
        ("restore_snapshot", "01ARZ3NDEKTSV4RRFFQ69G5FA"),
        ("secret_environment", ['A" }}']),
        ("secret_environment", ["A\nB=1"]),
        ("job_id", "oc-x\n"),
        ("user_id", "a\nb"),
        ("opencode_version", "1.18.34\n"),
        ("environment", {"A=B": "x"}),
        ("public_url", "javascript:alert(1)"),
        ("public_url", "https://x.example/ y"),
        ("cpu", 0),
        ("memory", -1),
        ("secret_version", 0),
        ("secret_version", 1.5),
    ],
)
async def test_what_would_break_out_of_its_place_is_refused(nomad, driver, name, value):
    with pytest.raises(UpstreamRejected):
        await rendered(nomad, driver, **{name: value})


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_nomads_web_interface_links_to_the_public_address_where_there_is_one(nomad, driver):
    open_to_browsers = await rendered(nomad, driver)
    closed = await rendered(nomad, driver, public_url="")

    assert [link["URL"] for link in open_to_browsers["UI"]["Links"]] == [VALUES["public_url"]]
    assert not closed["UI"]["Links"]


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_the_source_and_its_values_are_shown_to_operators(nomad, driver):
    job = await nomad.render(TEMPLATES[driver], VALUES, soon())

    submission = job.specification["Submission"]
    assert submission["Source"] == TEMPLATES[driver]
    assert json.loads(submission["Variables"]) == VALUES


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_no_vault_token_reaches_the_task(nomad, driver):
    vault = task_of(await rendered(nomad, driver))["Vault"]

    assert (vault["Env"], vault["DisableFile"], vault["ChangeMode"]) == (False, True, "noop")


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_the_secret_is_read_once_in_one_version_and_must_be_whole(nomad, driver):
    secret, *live = task_of(await rendered(nomad, driver))["Templates"]

    assert (secret["Once"], secret["ErrMissingKey"], secret["Perms"]) == (True, True, "600")
    assert '"kv/data/opencode/oc-ada-aaaaaaaaaaaaaaaaaaaa?version=7"' in secret["EmbeddedTmpl"]
    assert [each["ChangeMode"] for each in live] == ["noop", "noop"]


@pytest.mark.parametrize("driver", TEMPLATES)
async def test_labels_description_and_public_address_are_nowhere_where_they_would_restart_the_task(
    nomad, driver
):
    def without_places_that_change_in_place(job: Mapping[str, Any]) -> Any:
        job = copy.deepcopy(dict(job))
        job["UI"] = None
        task_of(job)["Services"][0].update(Meta=None, Tags=None)
        return job

    one = await rendered(nomad, driver)
    other = await rendered(nomad, driver, labels={"team": "other"}, description="Another.", public_url="")

    assert one != other
    assert without_places_that_change_in_place(one) == without_places_that_change_in_place(other)
