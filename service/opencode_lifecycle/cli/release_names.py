"""What people call a release: its number, its id, or `target` for that of the fleet."""

import re
from typing import Final

from opencode_lifecycle.cli.client import Client
from opencode_lifecycle.cli.connection import CommandFailed
from opencode_lifecycle.cli.exit_codes import ExitCode

TARGET: Final = "target"

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)


async def release_id_of(client: Client, name: str) -> str:
    """Return the id of the release that a person names by its number, as `target`, or by the id itself."""
    if name != TARGET and _NUMBER.match(name) is None:
        return name
    async for page in client.releases():
        for each in page["items"]:
            if (each.get("is_current") and name == TARGET) or str(each.get("number")) == name:
                return str(each["id"])
    raise CommandFailed(
        ExitCode.NOT_FOUND,
        f"there is no release {name}",
        advice="see `opencode-lifecycle release list`",
    )
