"""What every service catalogue promises. Runs against the fake and a real Consul."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import pytest

from fakes.consul import FakeConsul
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.service_catalog import ServiceCatalog, ServiceInstance

HOME = Address(host="127.0.0.1", port=24001)
ELSEWHERE = Address(host="10.1.2.3", port=24002)
Claim = tuple[JobId, AllocationId]


class Nomad(Protocol):
    """What Nomad does to Consul."""

    async def register(
        self, job_id: JobId, allocation_id: AllocationId, address: Address, *, passing: bool = True
    ) -> None: ...

    async def set_passing(self, job_id: JobId, allocation_id: AllocationId, *, passing: bool) -> None: ...

    async def deregister(self, job_id: JobId, allocation_id: AllocationId) -> None: ...


class FakeNomad:
    def __init__(self, consul: FakeConsul) -> None:
        self._consul = consul

    async def register(
        self, job_id: JobId, allocation_id: AllocationId, address: Address, *, passing: bool = True
    ) -> None:
        self._consul.register(job_id, allocation_id, address, passing=passing)

    async def set_passing(self, job_id: JobId, allocation_id: AllocationId, *, passing: bool) -> None:
        self._consul.set_passing(job_id, allocation_id, passing=passing)

    async def deregister(self, job_id: JobId, allocation_id: AllocationId) -> None:
        self._consul.forget(job_id, allocation_id)


@pytest.fixture(params=["fake", pytest.param("consul", marks=pytest.mark.servers)])
def both(request) -> tuple[ServiceCatalog, Nomad]:
    if request.param == "fake":
        fake = FakeConsul()
        return fake, FakeNomad(fake)
    real = request.getfixturevalue("real_consul")
    return real.catalog, real


@pytest.fixture
def catalog(both) -> ServiceCatalog:
    return both[0]


@pytest.fixture
def nomad(both) -> Nomad:
    return both[1]


@pytest.fixture
def job_id() -> JobId:
    return JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")


def new_allocation() -> AllocationId:
    return AllocationId(str(uuid.uuid4()))


def soon() -> Deadline:
    return Deadline.after(10, "test")


async def until(
    catalog: ServiceCatalog, job_id: JobId, holds: Callable[[Sequence[ServiceInstance]], bool]
) -> Sequence[ServiceInstance]:
    """An agent tells the catalogue of a change a moment later."""
    async with asyncio.timeout(10):
        while True:
            found = await catalog.instances(job_id, soon())
            if holds(found):
                return found
            await asyncio.sleep(0.01)


async def test_a_service_that_nobody_registered_has_no_instances(catalog, job_id):
    assert list(await catalog.instances(job_id, soon())) == []


async def test_an_instance_has_its_allocation_and_its_address(catalog, nomad, job_id):
    allocation = new_allocation()

    await nomad.register(job_id, allocation, HOME)

    found = await until(catalog, job_id, bool)
    assert [(each.allocation_id, each.address, each.passing) for each in found] == [(allocation, HOME, True)]


async def test_an_instance_says_whose_it_is_and_where_it_can_be_taken_away(catalog, nomad, job_id):
    allocation = new_allocation()

    await nomad.register(job_id, allocation, HOME)

    [found] = await until(catalog, job_id, bool)
    assert found.installation == "main"
    assert allocation in found.service_id
    assert found.node


async def test_an_instance_whose_check_is_critical_is_listed_as_not_passing(catalog, nomad, job_id):
    await nomad.register(job_id, new_allocation(), HOME, passing=False)

    found = await until(catalog, job_id, bool)

    assert [instance.passing for instance in found] == [False]


async def test_an_instance_follows_its_check(catalog, nomad, job_id):
    allocation = new_allocation()
    await nomad.register(job_id, allocation, HOME, passing=False)
    await until(catalog, job_id, bool)

    await nomad.set_passing(job_id, allocation, passing=True)
    await until(catalog, job_id, lambda found: found[0].passing)

    await nomad.set_passing(job_id, allocation, passing=False)
    await until(catalog, job_id, lambda found: not found[0].passing)


async def test_all_instances_are_listed(catalog, nomad, job_id):
    old, new = new_allocation(), new_allocation()
    await nomad.register(job_id, old, HOME, passing=False)
    await nomad.register(job_id, new, ELSEWHERE)

    found = await until(catalog, job_id, lambda found: len(found) == 2)

    assert {instance.allocation_id: instance.address for instance in found} == {
        old: HOME,
        new: ELSEWHERE,
    }


async def test_an_instance_that_was_deregistered_is_gone(catalog, nomad, job_id):
    old, new = new_allocation(), new_allocation()
    await nomad.register(job_id, old, HOME)
    await nomad.register(job_id, new, ELSEWHERE)
    await until(catalog, job_id, lambda found: len(found) == 2)

    await nomad.deregister(job_id, old)

    found = await until(catalog, job_id, lambda found: len(found) == 1)
    assert found[0].allocation_id == new


async def test_services_whose_names_begin_alike_do_not_meet(catalog, nomad, job_id):
    longer = JobId(f"{job_id}x")
    await nomad.register(longer, new_allocation(), HOME)
    await until(catalog, longer, bool)

    assert list(await catalog.instances(job_id, soon())) == []


async def test_all_instances_of_all_stacks_are_listed_as_they_are_one_by_one(catalog, nomad, job_id):
    other = JobId(f"{job_id}x")
    await nomad.register(job_id, new_allocation(), HOME)
    await nomad.register(job_id, new_allocation(), ELSEWHERE)
    await nomad.register(other, new_allocation(), HOME)
    await until(catalog, job_id, lambda found: len(found) == 2)
    await until(catalog, other, bool)

    listed = await catalog.list_all(soon())

    for each in (job_id, other):
        assert set(listed[each]) == set(await catalog.instances(each, soon()))


async def test_a_stack_without_instances_is_not_listed(catalog, nomad, job_id):
    allocation = new_allocation()
    await nomad.register(job_id, allocation, HOME)
    await until(catalog, job_id, bool)
    await nomad.deregister(job_id, allocation)
    await until(catalog, job_id, lambda found: not found)

    assert job_id not in await catalog.list_all(soon())


async def test_a_service_of_another_kind_of_name_is_not_listed(catalog, nomad, job_id):
    stranger = JobId(f"stranger-{uuid.uuid4().hex}")
    await nomad.register(stranger, new_allocation(), HOME)
    await nomad.register(job_id, new_allocation(), HOME)
    await until(catalog, job_id, bool)

    assert stranger not in await catalog.list_all(soon())


@asynccontextmanager
async def following(catalog: ServiceCatalog) -> AsyncIterator[AsyncIterator[frozenset[Claim]]]:
    """End the following with the `async with`, and fail what waits for it for ever."""
    async with asyncio.timeout(20), aclosing(catalog.follow_critical()) as news:
        yield news


async def test_what_is_critical_is_told_at_once(catalog, nomad, job_id):
    sick, well = new_allocation(), new_allocation()
    await nomad.register(job_id, sick, HOME, passing=False)
    await nomad.register(job_id, well, ELSEWHERE)
    await until(catalog, job_id, lambda found: len(found) == 2)

    async with following(catalog) as news:
        first = await anext(news)

    assert (job_id, sick) in first
    assert (job_id, well) not in first


async def test_what_becomes_critical_and_recovers_is_told(catalog, nomad, job_id):
    claim = job_id, new_allocation()
    await nomad.register(*claim, HOME)
    await until(catalog, job_id, bool)

    async with following(catalog) as news:
        assert claim not in await anext(news)

        await nomad.set_passing(*claim, passing=False)
        while claim not in await anext(news):
            pass

        await nomad.set_passing(*claim, passing=True)
        while claim in await anext(news):
            pass


async def test_what_is_gone_is_critical_no_more(catalog, nomad, job_id):
    claim = job_id, new_allocation()
    await nomad.register(*claim, HOME, passing=False)
    await until(catalog, job_id, bool)

    async with following(catalog) as news:
        assert claim in await anext(news)

        await nomad.deregister(*claim)
        while claim in await anext(news):
            pass


async def test_two_may_follow_at_once(catalog, nomad, job_id):
    claim = job_id, new_allocation()
    await nomad.register(*claim, HOME, passing=False)
    await until(catalog, job_id, bool)

    async with following(catalog) as one, following(catalog) as other:
        assert claim in await anext(one)
        assert claim in await anext(other)


async def test_an_instance_that_is_taken_away_is_gone_and_no_other_with_it(catalog, nomad, job_id):
    old, new = new_allocation(), new_allocation()
    await nomad.register(job_id, old, HOME)
    await nomad.register(job_id, new, ELSEWHERE)
    found = await until(catalog, job_id, lambda found: len(found) == 2)
    [orphan] = [instance for instance in found if instance.allocation_id == old]

    await catalog.deregister(orphan, soon())

    left = await until(catalog, job_id, lambda found: len(found) == 1)
    assert left[0].allocation_id == new


async def test_taking_away_may_be_repeated(catalog, nomad, job_id):
    await nomad.register(job_id, new_allocation(), HOME)
    [orphan] = await until(catalog, job_id, bool)

    await catalog.deregister(orphan, soon())
    await until(catalog, job_id, lambda found: not found)
    await catalog.deregister(orphan, soon())

    assert list(await catalog.instances(job_id, soon())) == []


async def test_ping_returns_when_all_is_well(catalog):
    await catalog.ping(soon())


async def test_a_call_whose_time_is_up_is_not_waited_for(catalog, job_id):
    with pytest.raises((DeadlineExceeded, UpstreamError)):
        await catalog.instances(job_id, Deadline.after(0, "nothing"))
