"""What others do to a stack behind the service's back, with the tools of Nomad and Vault."""

from typing import Any

from end_to_end.servers import NAMESPACE, Servers
from end_to_end.service_process import until


async def edit(servers: Servers, job_id: str) -> None:
    """Change the job as an operator does with `nomad job run` or in the web interface."""
    job = await servers.job(job_id)
    job["TaskGroups"][0]["Tasks"][0]["Env"]["EDITED"] = "by hand"
    job["TaskGroups"][0]["Tasks"][0]["Resources"]["CPU"] += 7
    await servers.nomad("/v1/jobs", "POST", {"Job": job})
    await until(
        lambda: servers.live(job_id),
        lambda live: [(each["JobVersion"], each["ClientStatus"]) for each in live] == [(1, "running")],
    )


async def stop(servers: Servers, job_id: str) -> None:
    await servers.nomad(f"/v1/job/{job_id}", "DELETE")
    await until(lambda: servers.live(job_id), lambda live: not live)


async def take_away(servers: Servers, job_id: str) -> None:
    await stop(servers, job_id)
    await servers.nomad(f"/v1/job/{job_id}", "DELETE", purge="true")


async def run_foreign(servers: Servers, job_id: str, meta: dict[str, str]) -> dict[str, Any]:
    """Run a job of that name which is none of ours, and return it."""
    await servers.nomad(
        "/v1/jobs",
        "POST",
        {
            "Job": {
                "ID": job_id,
                "Name": job_id,
                "Namespace": NAMESPACE,
                "Type": "service",
                "Datacenters": ["*"],
                "Meta": meta,
                "TaskGroups": [
                    {
                        "Name": "foreign",
                        "Tasks": [
                            {
                                "Name": "foreign",
                                "Driver": "mock_driver",
                                "Config": {"run_for": "1h"},
                                "LogConfig": {"Disabled": True},
                                "Resources": {"CPU": 1, "MemoryMB": 10},
                            }
                        ],
                    }
                ],
            }
        },
    )
    await until(lambda: servers.live(job_id), lambda live: len(live) == 1)
    return await servers.job(job_id)


async def replace_by_foreign(servers: Servers, job_id: str) -> None:
    await take_away(servers, job_id)
    await run_foreign(servers, job_id, {"managed_by": "somebody"})


async def change_password(servers: Servers, job_id: str, password: str) -> None:
    """Write another password, as an administrator does with `vault kv patch`."""
    path = f"kv/data/opencode/{job_id}"
    await servers.vault(path, "PATCH", {"data": {"password": password}}, patch=True)
