import asyncio
import json

import pytest

from bench.counting import Counting, whose_call
from bench.figures import Block, Figure, quiet, ratio_of, spread, table
from bench.machine import moved
from bench.rounds import noise_in
from bench.show import write


def figure(name: str = "a", *, holds: bool = True) -> Figure:
    return Figure(name=name, value=0.5123, unit="x", bar=">= 0.5", holds=holds)


def block(ratio: float, noise: str = "") -> Block:
    return Block(ours=(ratio, ratio), bare=(1.0, 1.0), noise=noise)


def test_the_ratio_of_a_block_does_not_see_a_drift_that_is_even():
    drifting = Block(ours=(1.0, 4.0), bare=(2.0, 3.0))

    assert drifting.ratio == 1.0


def test_the_figure_is_the_median_of_the_blocks():
    assert ratio_of([block(0.5), block(9.0), block(0.6)]) == pytest.approx(0.6)


def test_noisy_blocks_count_only_when_too_few_are_quiet():
    blocks = [block(9, "noise"), block(1), block(2), block(3)]

    assert [each.ratio for each in quiet(blocks, 3)] == [1, 2, 3]
    assert [each.ratio for each in quiet(blocks[:3], 3)] == [1, 2, 9]


def test_runs_of_one_arm_that_differ_by_more_than_a_third_are_noise():
    assert noise_in((1.0, 1.3), (2.0, 2.0), 0, 0) == ""
    assert noise_in((1.0, 1.4), (2.0, 2.0), 0, 0) == "ours differ by more than a third"
    assert noise_in((1.0, 1.0), (2.0, 2.8), 0, 0) == "bare differ by more than a third"


def test_a_disk_that_became_another_is_noise():
    assert moved(1.0, 1.31)
    assert not moved(1.0, 0.71)
    assert noise_in((1, 1), (1, 1), 1.0, 2.0) == "fdatasync moved from 1.00 to 2.00 ms"


def test_a_spread_names_median_and_both_ends():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3}


def test_the_table_says_in_words_what_does_not_hold():
    assert table([figure(), figure(holds=False)]) == [
        ("a", "0.512 x", ">= 0.5", "holds"),
        ("a", "0.512 x", ">= 0.5", "DOES NOT HOLD"),
    ]


def test_a_report_of_one_figure_keeps_the_others(tmp_path):
    path = tmp_path / "report" / "bench.json"
    write([figure("a"), figure("b")], {"cores": 2}, path)
    write([figure("b", holds=False)], {"cores": 2}, path)

    report = json.loads(path.read_text())

    assert [(entry["name"], entry["holds"]) for entry in report] == [("a", True), ("b", False)]
    assert set(report[0]) == {"name", "value", "unit", "bar", "holds", "details"}
    assert report[0]["details"] == {"machine": {"cores": 2}}


async def test_calls_of_the_services_own_loops_are_told_from_those_of_requests():
    class Port:
        name = "a value"

        async def read(self, number: int) -> int:
            return number

    calls = Counting.new()
    port = Counting(Port(), "port", calls)

    assert await asyncio.create_task(port.read(1), name="Task-7") == 1
    await asyncio.create_task(_call(port), name="dispatcher")
    await asyncio.create_task(_call(port), name="reconcile oc-ada")
    await asyncio.create_task(_call(port), name="ensure ada")

    assert port.name == "a value"
    assert calls == {("request", "port.read"): 2, ("service", "port.read"): 2}
    assert whose_call() == "request"


async def _call(port: Counting) -> None:
    await port.read(2)
