"""Alternating runs: ours, bare, bare, ours, again and again, so that whatever drifts meets both arms alike."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench import machine
from bench.figures import Block, quiet
from bench.show import say

Run = Callable[[], Awaitable[float]]


async def alternate(
    *, ours: Run, bare: Run, blocks: int, spare: int, disk: Path | None = None, unit: str
) -> Sequence[Block]:
    """
    Run blocks of A B B A until *blocks* of them were quiet, at most *spare* more than that.

    A block is noisy when the two runs of an arm differ by more than a third, or when the median flush of *disk* moved
    by more than 30 % from its beginning to its end. It is measured anew, and kept only if too few are quiet.
    """
    done: list[Block] = []
    while len([block for block in done if not block.noise]) < blocks and len(done) < blocks + spare:
        before = machine.fdatasync_ms(disk)[0] if disk else 0.0
        a1, b1, b2, a2 = await ours(), await bare(), await bare(), await ours()
        after = machine.fdatasync_ms(disk)[0] if disk else 0.0
        block = Block(ours=(a1, a2), bare=(b1, b2), noise=noise_in((a1, a2), (b1, b2), before, after))
        done.append(block)
        say(
            f"  block {len(done)}: ours {a1:.4g} {a2:.4g}, bare {b1:.4g} {b2:.4g} {unit}, "
            f"ratio {block.ratio:.3f} {f'({block.noise})' if block.noise else ''}"
        )
    return quiet(done, blocks)


def noise_in(ours: Sequence[float], bare: Sequence[float], before: float, after: float) -> str:
    """Say what makes a block noisy, or nothing. *before* and *after* are the disk's median flushes, 0 without one."""
    for name, values in (("ours", ours), ("bare", bare)):
        if max(values) > min(values) * 4 / 3:
            return f"{name} differ by more than a third"
    if before and machine.moved(before, after):
        return f"fdatasync moved from {before:.2f} to {after:.2f} ms"
    return ""
