"""What becomes of a user's data when an older version goes back."""

from typing import Annotated

from pydantic import Field

from opencode_lifecycle.api.schemas.shapes import Incoming
from opencode_lifecycle.model.migration import DataPolicy


class DataBody(Incoming):
    """
    What becomes of what was written since OpenCode's data was migrated, where an older version is gone back to.

    With `keep`, such a stack stays on the newer version, with reason `data_newer`. With `restore` the older version gets the
    data that it had, and what was written since is set aside as a snapshot. Where nothing was written both are the same.
    """

    data: Annotated[DataPolicy, Field(strict=False)] = DataPolicy.KEEP
