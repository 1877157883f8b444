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

    A version that ran before another, which was never handed out, gets the data from before that one: whatever it wrote is
    nobody's work. An order may give up what was written since a version had the data; so it is also
    how what was set aside comes back. A job that is registered again in place names the same one as before: anything else
    would restart it.

    Raises where it cannot be seen which snapshots there are: nothing is registered before that is known.
    """
    built, footing, version = stack.status.built, stack.status.footing, facets.opencode_version
    is_taken_back = aim.wanted != aim.asked
    order, starts_anew = stack.standing_order, stack.status.phase is Phase.PENDING
    if order is not None and order.restore and starts_anew and not is_taken_back:
        return await reports.newest_of(stack, version)
    if built is None or built.facets.opencode_version == version:
        return restored_by(built, facets)
    # Whether it is taken back, or was ordered back by whoever saw it fail before that.
    ran_before = footing is not None and footing.facets.opencode_version == version
    if ran_before and not built.used:
        return await reports.before(stack, version, built.facets.opencode_version)
    return ""


def restored_by(built: Footing | None, facets: Facets) -> str:
    """Return the snapshot that the job which is registered names, if it is the one that *facets* build."""
    return built.restore if built is not None and built.facets.revision == facets.revision else ""
