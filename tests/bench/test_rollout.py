"""What the figures of rollouts rely on: who counts as unavailable, what interrupts a client, and the simulated runtimes."""

import asyncio
import json
from dataclasses import replace

import pytest

from bench.availability import Availability
from bench.raw_rollout import Running
from bench.replayed_fleet import stack_for_lists
from bench.rollout import template_text
from bench.rollout_server import Counter, is_usable
from bench.simulated import SimulatedRuntimes
from bench.using import Use, Uses
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.proof import ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.prober import Liveness

JOB = JobId("oc-ada")
HERE = Address(host="127.0.0.1", port=24001)


# Who is available


def stub(allocation: str, status: str, job: str = "a", **more: object) -> dict[str, object]:
    return {"ID": allocation, "JobID": job, "ClientStatus": status, **more}


def test_a_job_is_available_as_long_as_one_of_its_allocations_runs():
    availability = Availability(["a", "b"])
    availability.take_in([stub("1", "running"), stub("2", "running", "b"), stub("3", "running", "other")])
    assert availability.unavailable == 0

    availability.take_in([stub("1", "complete")])
    assert availability.unavailable == 1

    availability.take_in([stub("4", "pending")])
    assert availability.unavailable == 1

    availability.take_in([stub("4", "running")])
    assert availability.unavailable == 0


def test_only_what_is_so_at_a_count_is_the_most_that_was_unavailable():
    availability = Availability(["a", "b"])
    availability.take_in([stub("1", "running")])
    availability.count()
    availability.take_in([stub("1", "complete")])
    availability.take_in([stub("1", "running"), stub("2", "running", "b")])
    availability.count()

    assert (availability.most, availability.times) == (1, 2)


def test_a_stack_counts_as_unusable_whose_address_is_not_given_out():
    _, runs = stack_for_lists()
    stops = runs.moved_to(replace(runs.status, phase=Phase.STOPPING))
    has_none = runs.moved_to(replace(runs.status, runtime=None))
    assert [is_usable(each) for each in (runs, stops, has_none)] == [True, False, False]

    counter = Counter()
    counter.count([runs, stops, has_none])
    counter.count([runs])

    assert json.loads(counter.answer("")) == {"most": 2, "times": 2}
    assert json.loads(counter.answer("")) == {"most": 0, "times": 0}


# The plain loop


def line(*allocations: dict[str, object]) -> bytes:
    return json.dumps({"Events": [{"Payload": {"Allocation": each}} for each in allocations]}).encode()


def running(index: int, **more: object) -> dict[str, object]:
    return stub("1", "running", DesiredStatus="run", CreateIndex=index) | more


async def test_the_plain_loop_waits_for_an_allocation_that_was_made_after_its_registration():
    seen = Running()
    waiting = asyncio.create_task(seen.until_newer("a", 10))
    await asyncio.sleep(0)

    seen.take_in(line(running(9), running(11, DesiredStatus="stop"), running(11, ClientStatus="pending")))
    seen.take_in(line(running(11, JobID="b")))
    await asyncio.sleep(0)
    assert not waiting.done()

    seen.take_in(line(running(11)))
    await waiting


async def test_the_plain_loop_does_not_wait_for_what_was_told_before_its_registration_was_answered():
    seen = Running()
    seen.take_in(line(running(11)))

    await asyncio.wait_for(seen.until_newer("a", 10), 1)


def test_both_arms_run_jobs_that_cost_nothing_but_are_found_in_consul():
    text = template_text()

    assert TemplateNeeds.of(text) == TemplateNeeds(secret=True, workspace=False, live_files=False)
    for part in ('driver = "mock_driver"', "disabled = true", 'port "http" {}', 'provider = "consul"'):
        assert part in text


# What a client notices


def uses(*worked: bool) -> Uses:
    return Uses(
        [Use(begun=float(at), ended=at + 0.5, why="" if each else "gone") for at, each in enumerate(worked)]
    )


def test_a_client_is_interrupted_from_its_last_use_to_the_first_one_that_works_again():
    assert uses(True, True, False, False, True).interruption == 3.0


def test_an_interruption_with_a_use_in_its_middle_lasts_to_its_end():
    assert uses(True, False, True, False, True).interruption == 4.0


def test_who_can_always_use_it_is_not_interrupted():
    assert (uses(True, True).interruption, uses(True, True).failed) == (0.0, 0)


def test_an_interruption_that_does_not_end_is_none_that_was_measured():
    with pytest.raises(AssertionError):
        _ = uses(True, False).interruption


# The simulated runtimes


def allocation(number: int, status: ClientStatus = ClientStatus.RUNNING) -> AllocationSeen:
    return AllocationSeen(
        id=AllocationId(f"allocation-{number}"),
        job_version=number,
        modify_index=number,
        create_index=number,
        desired_status="run",
        client_status=status,
        node_id="node",
        node_name="node",
        address=HERE,
    )


async def liveness(runtimes: SimulatedRuntimes) -> Liveness:
    return await runtimes.prober.liveness(HERE, Deadline.after(1, "test"))


async def proof(runtimes: SimulatedRuntimes, password: str, number: int = 1) -> ProofResult:
    async def read_password() -> Password:
        return Password(password)

    proven = await runtimes.prober.prove(
        address=HERE,
        allocation_id=AllocationId(f"allocation-{number}"),
        expected_version="1.18.34",
        directory=None,
        read_password=read_password,
        deadline=Deadline.after(1, "test"),
    )
    return proven.result


async def test_a_runtime_answers_as_long_as_nomad_says_that_its_allocation_runs():
    runtimes = SimulatedRuntimes()
    runtimes.see(JOB, allocation(1, ClientStatus.PENDING))
    assert await liveness(runtimes) is Liveness.SILENT

    runtimes.see(JOB, allocation(1))
    assert await liveness(runtimes) is Liveness.ALIVE

    runtimes.see(JOB, allocation(1, ClientStatus.COMPLETE))
    assert await liveness(runtimes) is Liveness.SILENT


async def test_the_end_of_an_allocation_takes_nothing_from_the_one_that_has_its_port_now():
    runtimes = SimulatedRuntimes()
    runtimes.see(JOB, allocation(1))
    runtimes.see(JobId("oc-grace"), allocation(2))

    runtimes.see(JOB, allocation(1, ClientStatus.COMPLETE))

    assert await liveness(runtimes) is Liveness.ALIVE


async def test_a_runtime_takes_the_password_of_its_own_job_and_no_other():
    runtimes = SimulatedRuntimes()
    runtimes.see(JOB, allocation(1))
    runtimes.learn(JobId("oc-grace"), Password("of-grace"))
    assert await proof(runtimes, "of-grace") is ProofResult.REFUSES_PASSWORD

    runtimes.learn(JOB, Password("of-ada"))
    assert await proof(runtimes, "of-ada") is ProofResult.PROVEN
    assert await proof(runtimes, "of-grace") is ProofResult.REFUSES_PASSWORD


async def test_a_replacement_knows_the_password_from_its_start():
    runtimes = SimulatedRuntimes()
    runtimes.learn(JOB, Password("of-ada"))
    runtimes.see(JOB, allocation(2))

    assert await proof(runtimes, "of-ada", 2) is ProofResult.PROVEN
