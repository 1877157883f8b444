"""Which of the service's neighbours are away, for whoever is shown something that waits for them."""

from collections.abc import Mapping, Sequence
from typing import Final

from opencode_lifecycle.cli.client import CallFailed, Client

_NEIGHBOURS: Final = ("nomad", "vault", "consul")


async def neighbours_away(client: Client) -> Sequence[str]:
    """Return a few words for each that the service cannot reach; nothing where it does not say."""
    try:
        dependencies = (await client.readiness()).body.get("dependencies")
    except CallFailed:
        return ()
    listed = dependencies if isinstance(dependencies, list) else []
    return [
        f"{str(each['name']).capitalize()}, which the service cannot reach: {each.get('detail')}"
        for each in listed
        if isinstance(each, Mapping) and each.get("name") in _NEIGHBOURS and not each.get("ok")
    ]
