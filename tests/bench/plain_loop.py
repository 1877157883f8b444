"""The other arm of a rollout: jobs of the same template, which a plain loop brings from one version to the next."""

import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.processes import Program, program
from bench.servers import NAMESPACE, Operator
from cluster_fixture import RealCluster
from opencode_lifecycle.model.identifiers import JobId, UserId, job_id_of
from real_opencode import VERSION

INSTALLATION: Final = "plain"
"""Whose mark its jobs bear, so that our service leaves them alone."""


class PlainLoop:
    """A slice of *count* jobs. `start` them, then bring them to one version after another."""

    def __init__(
        self,
        cluster: RealCluster,
        directory: Path,
        by: Operator,
        *,
        template: str,
        count: int,
        in_flight: int,
    ) -> None:
        self._cluster = cluster
        self._directory = directory
        self._operator = by
        self._template = template
        self._in_flight = in_flight
        self._versions = itertools.count(1)
        self._users = {
            job_id_of(INSTALLATION, user): user
            for user in (UserId(f"plain-{number}") for number in range(count))
        }

    @property
    def jobs(self) -> list[JobId]:
        return list(self._users)

    async def start(self) -> None:
        """Bring all to their first version."""
        async with self.ready() as loop:
            await self.go(loop)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Program]:
        """Yield a loop that has the next version of every job, rendered by Nomad, and waits to be told to `go`."""
        number = next(self._versions)
        found: list[Any] = []

        async def parse(job_id: JobId) -> None:
            body = {
                "JobHCL": self._template,
                "Variables": json.dumps(self._variables(job_id, number)),
                "Canonicalize": False,
            }
            found.append(await self._operator.nomad("POST", "jobs/parse", body))

        await self._operator.for_each(self.jobs, parse)
        work = {
            "nomad": self._cluster.nomad_address,
            "nomad_token": self._cluster.nomad_token_file.read_text().strip(),
            "namespace": NAMESPACE,
            "index": await self._operator.index(),
            "in_flight": self._in_flight,
            "jobs": found,
        }
        file = self._directory / f"plain-{number}.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(work))
        async with program("bench.raw_rollout", str(file), errors=self._directory / "plain.log") as loop:
            yield loop

    async def go(self, loop: Program) -> float:
        """Have *loop* begin, and return when the last new allocation ran."""
        await loop.tell("go")
        said = await loop.line()
        ended = time.time()
        assert said == "done", f"the plain loop said {said!r}"
        return ended

    def _variables(self, job_id: JobId, number: int) -> dict[str, Any]:
        """Return what our service would fill in, but for the release that differs by its image as theirs do."""
        return {
            "job_id": job_id,
            "installation": INSTALLATION,
            "user_id": self._users[job_id],
            "image": f"of-the-bench:{number}",
            "opencode_version": VERSION,
            **dict.fromkeys(("template_digest", "environment_digest", "resources_digest"), "0" * 16),
            "revision": f"{number:016}",
            "secret_version": 1,
            "secret_path": "",
            "cpu": 1,
            "memory": 10,
        }
