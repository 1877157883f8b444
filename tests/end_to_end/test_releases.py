"""A release on its way: made of files, checked by Nomad and OpenCode, delivered to a runtime, and kept over a restart."""

import json
from pathlib import Path

import pytest

from end_to_end.conftest import NewService
from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess, until
from real_opencode import VERSION

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180, func_only=True)]

OK, USAGE = 0, 2


@pytest.fixture(scope="module")
def service(new_service: NewService) -> ServiceProcess:
    """Give a service whose runtimes are stubs, and which does at once what is wanted."""
    return new_service(when_stale="now")


@pytest.fixture(scope="module")
def checked(new_service: NewService, opencode_path: Path) -> ServiceProcess:
    """Give a service that checks releases with the real OpenCode, from a path that names the version."""
    return new_service(opencode_path=opencode_path.parent.parent / "{version}" / opencode_path.name)


def created(service: ServiceProcess, *arguments: str) -> dict:
    done = service.command("release", "create", *arguments, "--json")
    assert done.returncode == OK, done.stderr
    return json.loads(done.stdout)


async def delivered(servers: Servers, service: ServiceProcess, user: str, file: str) -> str:
    """Return what lies among the live files of the user's runtime, as its node has it."""
    allocation = (await service.stack(user))["runtime"]["allocation_id"]
    answer = await servers.nomad(f"/v1/client/fs/cat/{allocation}?path=server/local/live/{file}")
    return answer if isinstance(answer, str) else json.dumps(answer)


@pytest.mark.opencode
def test_opencode_itself_checks_the_configuration_of_a_release(checked, tmp_path):
    (tmp_path / "good.json").write_text('{"share": "disabled"}')
    (tmp_path / "bad.json").write_text('{"share": "nonsense"}')

    good = created(
        checked, "--config", str(tmp_path / "good.json"), "--agent-prompt", f"build={tmp_path}/good.json"
    )
    bad = checked.command("release", "create", "--config", str(tmp_path / "bad.json"))
    listed = json.loads(checked.command("release", "list", "--json").stdout)["items"]

    assert good["checks"] == {"template": "accepted by Nomad", "config": f"accepted by OpenCode {VERSION}"}
    assert bad.returncode == USAGE
    assert "/managed_config: " in bad.stderr
    assert '"disabled"' in bad.stderr
    assert [each["number"] for each in listed] == [2, 1]


def test_a_version_of_which_there_is_no_program_is_refused(checked):
    refused = checked.command("release", "create", "--opencode-version", "1.18.99")

    assert refused.returncode == USAGE
    assert "/opencode_version: there is no such program to start" in refused.stderr


def test_a_template_that_nomad_does_not_take_is_refused_with_its_words(service, tmp_path):
    template = service.command("release", "show", "--part", "template").stdout
    (tmp_path / "bad.hcl").write_text(template.replace("count = 1", "count = 1\n    no_such_thing = 2"))

    refused = service.command("release", "create", "--template", str(tmp_path / "bad.hcl"))

    assert refused.returncode == USAGE
    assert "/template: Nomad refuses it" in refused.stderr
    assert "no_such_thing" in refused.stderr


async def test_what_a_pinned_stack_runs_on_is_the_release_with_its_prompts(service, servers, tmp_path):
    await service.ensure("ada")
    (tmp_path / "AGENTS.md").write_text("Be as brief as you can.\n")
    (tmp_path / "build.md").write_text("Build, and say what you built.\n")
    release = created(
        service,
        "--instructions",
        str(tmp_path / "AGENTS.md"),
        "--agent-prompt",
        f"build={tmp_path / 'build.md'}",
    )

    pinned = service.command("pin", "ada", str(release["number"]), "--wait", "60s")

    assert pinned.returncode == OK, pinned.stderr
    stack = await service.stack("ada")
    assert (stack["pinned"], stack["wanted_release"]) == (True, release["id"])

    async def files() -> tuple[str, str]:
        return (
            await delivered(servers, service, "ada", "instructions/AGENTS.md"),
            await delivered(servers, service, "ada", "managed/opencode.json"),
        )

    instructions, managed = await until(files, lambda found: "brief" in found[0] and "built" in found[1], 90)
    assert instructions == "Be as brief as you can.\n"
    assert json.loads(managed)["agent"]["build"]["prompt"] == "Build, and say what you built.\n"


async def test_a_target_that_was_chosen_outlives_a_restart_and_new_stacks_want_it(service):
    release = created(service, "--note", "chosen", "--no-env", "--image", "chosen")
    used = service.command("release", "use", str(release["number"]), "--no-rollout")
    assert used.returncode == OK, used.stderr

    service.restart()

    stack = await service.ensure("bob")
    assert stack["release"] == stack["wanted_release"] == release["id"]
    assert not stack["pinned"]


async def test_a_group_is_held_on_its_release(service):
    first = json.loads(service.command("release", "show", "1", "--json").stdout)
    held = service.command("group", "set", "team-a", "--pin", "1", "--idle-stop-after", "30m", "--json")
    assert held.returncode == OK, held.stderr

    stack = await service.ensure("cleo", {"group": "team-a"})

    assert stack["wanted_release"] == first["id"]
