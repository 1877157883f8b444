"""What a service finds that was down while others worked on its jobs."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from end_to_end.behind_its_back import edit, run_foreign, take_away
from end_to_end.conftest import NewService
from end_to_end.servers import Servers, both, status_of
from end_to_end.service_process import ServiceProcess, until
from faults.matrix import fault
from faults.trials import Trial
from faults.using import conditions, reconciled
from opencode_lifecycle.model.identifiers import UserId, job_id_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180, func_only=True)]

KINDS = ("untouched", "stopped", "edited", "removed", "replaced")
PARTS = {"job", "secret", "service", "volume", "variable"}


@pytest.fixture(scope="module")
def service(new_service: NewService) -> ServiceProcess:
    return new_service(
        resync_interval=1,
        observation_max_age=6,
        liveness_interval=1,
        comparison_interval=2,
        secret_sweep_interval=1,
        when_stale="report",
    )


def is_another_than(before: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """Tell whether a stack runs and is proven, and that not in the allocation of *before*."""

    def holds(stack: dict[str, Any]) -> bool:
        if (stack["phase"], stack["health"]) != ("running", "healthy"):
            return False
        return bool(stack["runtime"]["allocation_id"] != before["runtime"]["allocation_id"])

    return holds


def counts_of(summary: dict[str, Any]) -> Counter[str]:
    return Counter({each["facet"]: each["stacks"] for each in summary["items"]})


@fault("boot")
async def test_a_service_that_was_down_while_others_worked_on_its_jobs_starts_with_a_true_picture(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    users = {kind: f"{kind}-{trial.number}" for kind in KINDS}
    before = dict(zip(KINDS, await both(*(service.ensure(user) for user in users.values())), strict=True))
    job_ids = {kind: stack["job_id"] for kind, stack in before.items()}
    neighbour = job_id_of("neighbour", UserId(f"ada-{trial.number}"))
    marks = {"installation": "neighbour", "managed_by": "opencode-lifecycle", "user": f"ada-{trial.number}"}
    summary_before = (await service.call("GET", "/v1/staleness", role="operator")).body

    await asyncio.to_thread(service.kill)
    await servers.nomad(f"/v1/job/{job_ids['stopped']}", "DELETE")
    await edit(servers, job_ids["edited"])
    await take_away(servers, job_ids["removed"])
    await take_away(servers, job_ids["replaced"])
    foreign = await run_foreign(servers, job_ids["replaced"], {"managed_by": "somebody"})
    others = await run_foreign(servers, neighbour, marks)
    await asyncio.to_thread(service.start)
    with trial.recovery():
        stopped, removed = [
            await service.until_stack(users[kind], is_another_than(before[kind]))
            for kind in ("stopped", "removed")
        ]
        replaced = await service.until_stack(users["replaced"], lambda stack: stack["phase"] == "failed")
        edited = await service.until_stack(users["edited"], lambda stack: bool(stack["staleness"]))
    untouched = await service.until_stack(users["untouched"], lambda stack: stack["health"] == "healthy")
    report = await reconciled(service)
    summary = (await service.call("GET", "/v1/staleness", role="operator")).body

    assert untouched["runtime"]["allocation_id"] == before["untouched"]["runtime"]["allocation_id"]
    assert untouched["staleness"] == []
    for kind, stack in (("stopped", stopped), ("removed", removed)):
        assert stack["generation"] == before[kind]["generation"], kind
        assert (await servers.secret_metadata(stack["job_id"]))["current_version"] == 1, kind
        user = users[kind]
        assert await status_of(await service.address(user), await service.password(user)) == 200, kind
    [edit_seen] = edited["staleness"]
    assert edit_seen["facet"] == "edited_outside"
    assert "Env[EDITED]" in edit_seen["have"]
    assert "Resources.CPU" in edit_seen["have"]
    assert edited["migration_state"] == "stale"
    assert counts_of(summary) - counts_of(summary_before) == {"edited_outside": 1}
    assert replaced["reason"] == "foreign_job"
    assert (await servers.job(job_ids["replaced"]))["JobModifyIndex"] == foreign["JobModifyIndex"]
    assert (await servers.job(neighbour))["JobModifyIndex"] == others["JobModifyIndex"]
    assert len(await servers.live(neighbour)) == len(await servers.live(job_ids["replaced"])) == 1
    assert neighbour not in [each["orphan"]["job_id"] for each in report["orphans"]]
    assert await conditions(service) == {}

    for job_id in (neighbour, job_ids["replaced"]):
        await take_away(servers, job_id)
    for user in users.values():
        assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


def lose_row(service: ServiceProcess, user: str) -> None:
    """Take the stack out of the database, as a backup does that was made before it."""
    with closing(sqlite3.connect(service.directory / "lifecycle.db")) as database, database:
        database.execute("DELETE FROM user_stacks WHERE user_id = ?", (user,))


async def orphans(service: ServiceProcess) -> list[dict[str, Any]]:
    answer = await service.call("GET", "/v1/orphans", role="operator")
    assert answer.status == 200, answer.body
    return list(answer.body["items"])


@fault("boot")
async def test_a_stack_whose_row_was_lost_is_found_whole_and_gets_it_back_from_an_operator(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    user = f"lost-{trial.number}"
    before = await service.ensure(user)
    password, job_id = await service.password(user), before["job_id"]
    # Whose a secret is, the sweep writes on it.
    await until(lambda: servers.secret_metadata(job_id), lambda found: bool(found["custom_metadata"]))
    neighbour = job_id_of("neighbour", UserId(user))
    marks = {"installation": "neighbour", "managed_by": "opencode-lifecycle", "user": user}

    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(lose_row, service, user)
    others = await run_foreign(servers, neighbour, marks)
    # One comparison, at the start: the service would adopt it by itself after the third.
    service.change(comparison_interval=3600)
    await asyncio.to_thread(service.start)
    with trial.recovery():
        # What an earlier deletion left for a moment may still be listed: only this comparison sees it gone.
        listed = await until(
            lambda: orphans(service),
            lambda listed: {each["kind"] for each in listed if each["job_id"] == job_id} >= PARTS,
        )
    found = [each for each in listed if each["job_id"] == job_id]
    [job] = [each for each in found if each["kind"] == "job"]
    adopted = await service.call("POST", f"/v1/orphans/{job['id']}/adopt", {}, role="operator")
    after = await service.until_stack(user, lambda stack: stack["health"] == "healthy")
    service.change(comparison_interval=2)
    await asyncio.to_thread(service.restart)

    assert {(each["kind"], each["user_id"], each["proven"]) for each in found} == {
        (kind, user, True) for kind in PARTS
    }
    assert neighbour not in [each["job_id"] for each in listed]
    assert adopted.status == 200, adopted.body
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert await service.password(user) == password
    assert await status_of(await service.address(user), password) == 200
    assert (await servers.job(neighbour))["JobModifyIndex"] == others["JobModifyIndex"]
    await until(
        lambda: orphans(service), lambda left: all(each["job_id"] not in {job_id, neighbour} for each in left)
    )

    await take_away(servers, neighbour)
    assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"


@fault("boot")
async def test_a_service_that_finds_all_its_jobs_gone_waits_for_an_operator_to_say_that_it_is_so(
    trial: Trial, service: ServiceProcess, servers: Servers
):
    users = [f"gone-{trial.number}-{number}" for number in range(3)]
    before = await both(*(service.ensure(user) for user in users))

    await asyncio.to_thread(service.kill)
    await both(*(take_away(servers, stack["job_id"]) for stack in before))
    await asyncio.to_thread(service.start)
    raised = await until(lambda: conditions(service), lambda standing: "mass_disappearance" in standing)
    report = await reconciled(service, dry_run=False)
    jobs_meanwhile = await servers.jobs(service.installation)
    condition = raised["mass_disappearance"]
    confirmed = await service.call("POST", f"/v1/conditions/{condition['id']}/confirm", role="operator")
    with trial.recovery():
        after = await both(
            *(
                service.until_stack(user, is_another_than(stack), 60)
                for user, stack in zip(users, before, strict=True)
            )
        )
    await until(lambda: conditions(service), lambda standing: not standing)

    assert condition["freezes"]
    assert report["frozen"]
    assert [each for each in jobs_meanwhile if each["ID"] in {stack["job_id"] for stack in before}] == []
    assert confirmed.status == 200
    for stack in after:
        assert (await servers.secret_metadata(stack["job_id"]))["current_version"] == 1
        assert len(await servers.live(stack["job_id"])) == 1
    for user in users:
        assert (await service.do(user, "delete", workspace="delete"))["state"] == "succeeded"
