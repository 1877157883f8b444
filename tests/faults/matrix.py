"""The faults, what must hold in each, and the marker that ties a test to one of them."""

from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    injected: str
    must_hold: str


MATRIX = {
    "F1": Fault(
        injected="the service is killed before or after each effect of a stack's whole life",
        must_hold="its next life converges; one live allocation at most, no accepted wish lost, nothing left behind",
    ),
    "F2": Fault(
        injected="of two replicas the one that drives a rollout is frozen for longer than its claim, then goes on",
        must_hold="the other takes over; nobody is moved twice, and never are more in flight than may be",
    ),
    "F5": Fault(
        injected="50 identical ensures of one user, split between two replicas",
        must_hold="one job, one password, the same answer from both",
    ),
    "F6": Fault(
        injected="ensure, recreate, stop and delete of the same stacks at once, on two replicas",
        must_hold="what was accepted last comes about; what was deleted stays deleted",
    ),
    "F7": Fault(
        injected="the caller hangs up after the request line, amid the body, or before the answer",
        must_hold="the wish comes about whole or never began; repeated with its key it is the same one",
    ),
    "F9": Fault(
        injected="Nomad is frozen, for 60 s in the first of the many repetitions of `make faults`, or cut off",
        must_hold="reads say how old they are, wishes are kept, nothing is destroyed",
    ),
    "F10": Fault(
        injected="Nomad is killed and replays its log",
        must_hold="all is listed anew; no healthy runtime is touched",
    ),
    "F13": Fault(
        injected="Nomad's client is killed and comes back while its tasks run on",
        must_hold="the same allocation and address; nobody who uses the runtime notices",
    ),
    "F15": Fault(
        injected="Nomad's answer to a registration is lost after it was committed",
        must_hold="the next try changes nothing: no further version, no further allocation",
    ),
    "F18": Fault(
        injected="Nomad's listing comes empty, cut short, stale or without allocations",
        must_hold="it never means that all is gone: destructive work stands still, says so, and goes on by itself",
    ),
    "F23": Fault(
        injected="a runtime answers 404 or 500, hangs, or accepts and resets",
        must_hold="it is never published, and its start fails at the deadline with the reason",
    ),
    "F25": Fault(
        injected="a runtime is frozen: alive for Nomad, dead for everyone else",
        must_hold="found within 3 probes, replaced once, and not again and again",
    ),
    "F26": Fault(
        injected="a runtime answers without credentials",
        must_hold="never published, stopped at once, not started again by itself; history, list, metrics, log and doctor tell",
    ),
    "F27": Fault(
        injected="another server sits at a runtime's address, or is listed for it",
        must_hold="the address is withdrawn, and no password is sent there",
    ),
    "F29": Fault(
        injected="Vault is frozen, cut off, down, killed, sealed, answers 503 or cannot write its audit log",
        must_hold="what runs is unaffected, what is new waits with the reason, and no password is made twice",
    ),
    "F30": Fault(
        injected="Vault's answer to a write is lost after it was committed",
        must_hold="what was written is adopted: one version, and the runtime takes its password",
    ),
    "F33": Fault(
        injected="Consul is frozen, cut off, down or killed",
        must_hold="what runs is unaffected, what is new waits with the reason, no address is wrong",
    ),
    "rollout": Fault(
        injected="the service, or of two replicas the one that drives, is killed while a rollout moves runtimes",
        must_hold="its next life, or the other, goes on: nobody is moved twice or forgotten, and it succeeds",
    ),
    "boot": Fault(
        injected="jobs are stopped, edited, removed or replaced by foreign ones while the service is down",
        must_hold="it starts with a true picture: each is marked with its reason, and the foreign are left alone",
    ),
    "crash": Fault(
        injected="the real OpenCode is killed while it is in use",
        must_hold="its address is withdrawn, its exit code told, it is proven anew, and files and sessions are there",
    ),
}


def fault(name: str) -> pytest.MarkDecorator:
    """Mark a test, or one of its cases, as one of the fault *name*."""
    assert name in MATRIX, f"no fault is called {name}"
    return pytest.mark.fault(name)
