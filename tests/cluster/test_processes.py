"""Processes are known by more than their number, and ended without hitting a stranger."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from opencode_lifecycle.cluster import processes
from opencode_lifecycle.cluster.processes import MARK, Process, bearing, identify, terminate

SOON = timedelta(seconds=0.2)
LATER = timedelta(seconds=20)


@contextmanager
def a_process(
    script: str = "echo ready; exec sleep 600", mark: str = ""
) -> Iterator[tuple[subprocess.Popen[str], Process]]:
    """Start a shell script, and go on when it has said its first line."""
    with subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.defpath, MARK: mark},
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = identify(child.pid)
        assert process is not None
        try:
            yield child, process
        finally:
            child.kill()


def test_a_process_is_ended_when_it_is_asked():
    with a_process() as (child, process):
        assert terminate([process], LATER) == []
        assert child.wait() == -15


def test_a_process_that_does_not_listen_is_killed():
    with a_process("trap '' TERM; echo ready; while :; do sleep 0.05; done") as (child, process):
        assert terminate([process], SOON) == []
        assert child.wait() == -9


def test_a_process_that_is_frozen_is_ended_too():
    with a_process() as (child, process):
        os.kill(child.pid, 19)

        assert terminate([process], LATER) == []
        assert child.wait() == -15


def test_a_later_process_of_the_same_number_is_left_alone():
    with a_process() as (child, process):
        for stranger in (
            replace(process, started=process.started - 1),
            replace(process, boot="another boot"),
        ):
            assert not stranger.is_alive()
            assert terminate([stranger], SOON) == []

        assert child.poll() is None


def test_a_process_that_is_gone_is_no_error():
    with a_process() as (child, process):
        child.kill()
        child.wait()

        assert not process.is_alive()
        assert identify(child.pid) is None
        assert terminate([process], SOON) == []


def test_a_zombie_counts_as_gone():
    with a_process() as (_, process):
        terminate([process], LATER)

        assert not process.is_alive()


def test_a_mark_finds_descendants_even_those_that_cleared_their_environment():
    mark = "a-mark-of-this-test"
    with a_process("env -i sh -c 'echo ready; sleep 600; :' & wait", mark=mark) as (child, process):
        found = bearing(mark)
        others = [one for one in found if one.pid != child.pid]

        assert process in found
        assert others
        assert all(MARK.encode() not in read_environment(one) for one in others)
        terminate(found, LATER)
        assert bearing(mark) == []


def test_a_mark_must_match_whole():
    with a_process(mark="mark-of-one-cluster-and-more"):
        assert bearing("mark-of-one-cluster") == []


def test_a_process_survives_being_written_down():
    with a_process() as (_, process):
        assert Process.from_json(process.to_json()) == process
        assert processes.boot_id() == process.boot


def read_environment(process: Process) -> bytes:
    with open(f"/proc/{process.pid}/environ", "rb") as file:  # noqa: PTH123
        return file.read()
