"""The same service on PostgreSQL: what one user needs of it, and a restart."""

import asyncio

import pytest

from end_to_end.conftest import NewService
from end_to_end.service_process import path_of
from postgresql_fixture import Postgresql, postgresql

__all__ = ["postgresql"]

pytestmark = [pytest.mark.servers, pytest.mark.postgresql, pytest.mark.timeout(180, func_only=True)]


async def test_a_stack_lives_through_a_restart_and_is_deleted_on_postgresql(
    new_service: NewService, servers, postgresql: Postgresql
):
    url = postgresql.new_database()
    service = new_service(database_url=url)
    before = await service.ensure("ada", {"labels": {"team": "blue"}})

    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(service.start)
    after = await service.ensure("ada")
    [row] = (await service.call("GET", "/v1/stacks", label="team=blue")).body["items"]
    operation = await service.do("ada", "delete", workspace="delete")

    assert row["user_id"] == "ada"
    assert after["generation"] == before["generation"]
    assert after["runtime"]["allocation_id"] == before["runtime"]["allocation_id"]
    assert operation["state"] == "succeeded", operation
    assert await servers.job(before["job_id"]) is None
    assert (await service.call("GET", path_of("ada"))).status == 404
    assert (
        postgresql.execute("SELECT count(*) FROM user_stacks", database=url.split("/")[3].split("?")[0])
        == "0"
    )


async def test_work_begun_before_a_kill_is_finished_on_postgresql(
    new_service: NewService, servers, postgresql: Postgresql
):
    service = new_service(database_url=postgresql.new_database(), claim_lifetime=9, upstream_timeout=3)
    users = [f"user-{number}" for number in range(4)]

    for user in users:
        await service.accept(user)
    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(service.start)

    for user in users:
        stack = await service.ensure(user)
        assert stack["generation"] == 1
        assert (await servers.job(stack["job_id"]))["Version"] == 0
