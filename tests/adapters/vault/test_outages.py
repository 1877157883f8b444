"""What happens to passwords while a real Vault is away, and after it came back sealed and was opened again."""

import uuid

import pytest

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import JobId

pytestmark = pytest.mark.servers


@pytest.fixture
def job_id() -> JobId:
    return JobId(f"oc-ada-{uuid.uuid4().hex[:20]}")


def soon() -> Deadline:
    return Deadline.after(10, "test")


async def test_a_vault_that_was_down_has_its_passwords_again_and_makes_no_new_ones(
    cluster, real_vault, job_id
):
    store = real_vault.store
    version = await store.ensure(job_id, soon())
    password = await store.read(job_id, version, soon())

    await cluster.stop("vault")
    try:
        with pytest.raises(UpstreamUnavailable):
            await store.ensure(job_id, soon())
        with pytest.raises(UpstreamUnavailable):
            await store.latest_version(job_id, soon())
    finally:
        await cluster.start("vault")

    assert await store.ensure(job_id, soon()) == version
    assert await store.read(job_id, version, soon()) == password


async def test_a_vault_that_hangs_is_given_up_and_works_again_afterwards(cluster, real_vault, job_id):
    store = real_vault.store
    await store.ensure(job_id, soon())

    await cluster.pause("vault")
    try:
        with pytest.raises((UpstreamUnavailable, DeadlineExceeded)):
            await store.rotate(job_id, expected=1, deadline=Deadline.after(0.5, "test"))
    finally:
        await cluster.resume("vault")

    assert await store.latest_version(job_id, soon()) in {
        1,
        2,
    }  # the outcome of a write that was given up is open
