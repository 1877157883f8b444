"""The shipped job template, changed where a test wants Nomad to be quicker to give up, or to begin again."""

from collections.abc import Mapping
from pathlib import Path

from opencode_lifecycle.shipped import shipped

RESCHEDULED_SOON = {
    'unlimited      = true\n      delay          = "10s"': 'unlimited      = true\n      delay          = "5s"'
}
"""Nomad takes no shorter delay."""
NOT_RESTARTED = {"attempts = 3": "attempts = 0", **RESCHEDULED_SOON}
"""What makes an allocation end with its task, and another be placed as soon as Nomad can be told to."""
RESTARTED_ONCE = {
    'attempts = 3\n      interval = "5m"\n      delay    = "10s"': 'attempts = 1\n      interval = "5m"\n      delay    = "1s"',
    **RESCHEDULED_SOON,
}


def changed_template(directory: Path, changes: Mapping[str, str]) -> Path:
    """Write the template of raw_exec into *directory* with each of these texts, which it must have once, changed."""
    text = shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text()
    for shipped_text, changed in changes.items():
        assert text.count(shipped_text) == 1, shipped_text
        text = text.replace(shipped_text, changed)
    path = directory / "opencode.nomad.hcl"
    path.write_text(text)
    return path
