"""Who is moved in which wave. Pure, and the same each time for the same stacks: a plan and its rollout agree."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.rollout import BusyState
from opencode_lifecycle.model.rollout_specification import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A stack that is to be moved. One that *rests* only starts on what is wanted."""

    user_id: UserId
    group: str
    rests: bool
    busy: BusyState


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """The wave of each stack, 0 being that of the canaries, and how many there are after them."""

    of: Mapping[UserId, int]
    count: int


def turn_of(release: ReleaseId | None, user_id: UserId) -> str:
    """Return where in a wave the stack is: by a hash, so that nobody is always first."""
    return hashlib.sha256(f"{release or ''}\0{user_id}".encode()).hexdigest()


def in_waves(candidates: Sequence[Candidate], strategy: Strategy, release: ReleaseId | None) -> Waves:
    """
    Divide the stacks into canaries and waves.

    Canaries run, and are spread over groups; of each group those that are seen idle come first. Whoever is seen at work
    comes in the last waves, and what does not run in the very last: by then the release has been proven.
    """
    running = sorted(
        (each for each in candidates if not each.rests),
        key=lambda each: turn_of(release, each.user_id),
    )
    canaries = _spread(running)[: strategy.canary.at_least(len(candidates))]
    waves = {each.user_id: 0 for each in canaries}
    rest = [each for each in running if each.user_id not in waves]
    rest.sort(key=lambda each: each.busy is BusyState.BUSY)
    count = 0
    while rest:
        size = strategy.waves[min(count, len(strategy.waves) - 1)].at_least(len(candidates))
        count += 1
        waves |= {each.user_id: count for each in rest[:size]}
        rest = rest[size:]
    resting = [each for each in candidates if each.rests]
    count = max(count, 1) if resting else count
    waves |= {each.user_id: count for each in resting}
    return Waves(of=waves, count=count)


def _spread(running: Iterable[Candidate]) -> list[Candidate]:
    """Return *running* with one of each group in turn; whoever is seen at work comes after all others."""
    found: list[Candidate] = []
    everybody = list(running)
    for at_work in (False, True):
        groups: dict[str, list[Candidate]] = {}
        for each in everybody:
            if (each.busy is BusyState.BUSY) is at_work:
                groups.setdefault(each.group, []).append(each)
        for members in groups.values():
            members.sort(key=lambda each: each.busy is not BusyState.IDLE)
        found += [each for row in zip_longest(*groups.values()) for each in row if each is not None]
    return found
