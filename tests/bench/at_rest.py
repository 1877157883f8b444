"""The real service beside a fleet that the loopback neighbours replay."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.processes import Program, program
from bench.replayed_fleet import Member, members, seed
from bench.service import INSTALLATION, service
from opencode_lifecycle import application
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import Rate, Rates, Settings

_MARK = "of-the-bench"
_SELDOM = timedelta(hours=6)
_UNLIMITED = Rate(per_second=1e6, burst=1_000_000)


@dataclass(frozen=True, slots=True)
class AtRest:
    """A fleet of *count* stacks that run and are current. `loopback` is Nomad, Vault, Consul and all runtimes."""

    count: int
    directory: Path
    settings: Settings
    loopback: Program
    addresses: dict[str, Any]
    token: str

    def members(self) -> list[Member]:
        return list(members(self.count, installation=INSTALLATION))

    def service(self) -> Any:
        """Run the service, as a context manager; again and again on the same rows."""
        return service(self.settings, self.directory, token=self.token)

    async def ask(self, order: str) -> Any:
        await self.loopback.tell(order)
        return json.loads(await self.loopback.line())


@asynccontextmanager
async def at_rest(directory: Path, count: int, **settings: Any) -> AsyncIterator[AtRest]:
    """
    Yield a fleet with the rows of its service.

    The service goes round its stacks by itself, too: Vault's sweep, the steady probes and the comparison with Consul have
    a pace of their own, and are so slow here that a pass of Nomad's listing can be told from them.
    """
    directory.mkdir()  # noqa: ASYNC240 - before anything is measured
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text("of-nobody")
    arguments = (str(count), INSTALLATION)
    async with program("bench.loopback", *arguments, errors=directory / "loopback.log") as loopback:
        addresses = json.loads(loopback.said)
        named = {
            f"{name}_address": f"http://127.0.0.1:{addresses[name]}" for name in ("nomad", "vault", "consul")
        }
        chosen = Settings(
            installation=INSTALLATION,
            listen_port=0,
            database_url=f"sqlite:///{directory / 'service.db'}",
            nomad_token_file=token,
            vault_token_file=token,
            consul_token_file=token,
            driver="raw_exec",
            opencode_path=Path("/bin/true"),
            rates=Rates(read=_UNLIMITED, ensure=_UNLIMITED, lifecycle=_UNLIMITED, admin=_UNLIMITED),
            **{
                "secret_sweep_interval": _SELDOM,
                "liveness_interval": _SELDOM,
                "comparison_interval": _SELDOM,
                **named,
                **settings,
            },
        )
        meta = await seed(chosen, count, port=addresses["runtimes"], node_id=addresses["node_id"], mark=_MARK)
        secret = await application.issue_token(chosen, name="bench", role=Role.OPERATOR, subject=None)
        fleet = AtRest(count, directory, chosen, loopback, addresses, secret)
        assert await fleet.ask(f"meta {json.dumps({'meta': dict(meta), 'mark': _MARK})}") == count
        yield fleet
