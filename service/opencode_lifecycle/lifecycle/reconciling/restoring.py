"""Which snapshot of its data a job names, and when it names none: then its entrypoint decides by what was written."""

from opencode_lifecycle.lifecycle.observing.data_reports import DataReports
from opencode_lifecycle.lifecycle.reconciling.aims import Aim
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.migration import Footing
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase


async def snapshot_to_restore(reports: DataReports, stack: Stack, aim: Aim, facets: Facets) -> str:
    """
    Return the snapshot that a job of *facets* names, empty for none. What is named is restored whatever was written.

    A version that is gone back to because another failed gets the data from before that one, which was never handed out:
    whatever it wrote is nobody's work. An order may give up what was written since for an older version. A job that is
    registered again in place names the same one as before: anything else would restart it.

    Raises where it cannot be seen which snapshots there are: nothing is registered before that is known.
    """
    built, version = stack.status.built, facets.opencode_version
    is_taken_back = aim.wanted != aim.asked
    if not is_taken_back and _gives_up_what_was_written(stack, version):
        return await reports.newest_of(stack, version)
    if built is None or built.facets.opencode_version == version:
        return restored_by(built, facets)
    if is_taken_back and not built.used:
        return await reports.before(stack, version, built.facets.opencode_version)
    return ""


def restored_by(built: Footing | None, facets: Facets) -> str:
    """Return the snapshot that the job which is registered names, if it is the one that *facets* build."""
    return built.restore if built is not None and built.facets.revision == facets.revision else ""


def _gives_up_what_was_written(stack: Stack, version: str) -> bool:
    """Whether that is ordered of a start of *version*. One that is newer than what ran has nothing to give up for it."""
    order, built = stack.standing_order, stack.status.built
    if order is None or not order.restore or stack.status.phase is not Phase.PENDING:
        return False
    return built is None or _numbers(version) <= _numbers(built.facets.opencode_version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))
