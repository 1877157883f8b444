"""OpenCode's check of a configuration: what is made of its answer, and what it is kept from."""

import asyncio
import os
from pathlib import Path

import pytest

from opencode_lifecycle.adapters.opencode.config_check import OpenCodeConfigCheck
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamNonsense
from opencode_lifecycle.ports.config_check import Outcome
from real_opencode import VERSION

PLANTED = "planted-secret-of-the-service"


def a_program(directory: Path, debug: str, *, version: str = "1.18.34") -> Path:
    """Make a program that says its version, and does *debug* when it is asked for its configuration."""
    program = directory / "opencode"
    program.write_text(
        f"#!/bin/sh\nmanaged=$OPENCODE_TEST_MANAGED_CONFIG_DIR/opencode.json\n"
        f'if [ "$1" = --version ]; then echo {version}; exit 0; fi\n{debug}\n'
    )
    program.chmod(0o755)
    return program


async def check(program, managed="{}", *, version="1.18.34", seconds=20, starts_runtimes=True):
    checks = OpenCodeConfigCheck(str(program), starts_runtimes=starts_runtimes)
    deadline = Deadline.after(seconds, "check the managed configuration")
    return await checks.check(version=version, managed=managed, deadline=deadline)


async def test_a_configuration_that_it_reads_is_accepted(tmp_path):
    program = a_program(tmp_path, f'grep -q disabled "$managed" && cp "$managed" {tmp_path}/seen')

    verdict = await check(program, '{"share": "disabled"}')

    assert (verdict.outcome, verdict.message) == (Outcome.ACCEPTED, "accepted by OpenCode 1.18.34")
    assert (tmp_path / "seen").read_text() == '{"share": "disabled"}'


@pytest.mark.parametrize(
    ("issues", "told"),
    [
        (["Expected a string share"], "correct share: Expected a string"),
        (
            ["Expected a string share", "Expected a number, got true agent.build.steps"],
            "correct share: Expected a string; agent.build.steps: Expected a number, got true",
        ),
        (["Unrecognized key: 'colour' "], "correct this: Unrecognized key: 'colour'"),
        (["Unrecognized key: 'colour'"], "correct this: Unrecognized key: 'colour'"),
    ],
)
async def test_each_value_that_it_does_not_take_is_named_with_what_is_wrong_about_it(tmp_path, issues, told):
    listed = "".join(f"↳ {issue}\\n" for issue in issues)
    said = f"\\033[91m\\033[1mError: \\033[0mConfiguration is invalid at $managed\\n{listed}"
    program = a_program(tmp_path, f'printf "{said}" >&2; exit 1')

    verdict = await check(program)

    assert (verdict.outcome, verdict.message) == (Outcome.REFUSED, f"OpenCode 1.18.34 refuses it; {told}")


async def test_the_configuration_itself_is_not_repeated(tmp_path):
    said = (
        "Error: Config file at $managed is not valid JSON(C):\\n--- JSONC Input ---\\n$(cat $managed)\\n"
        "--- Errors ---\\nCloseBraceExpected at line 1\\n   Line 1: $(cat $managed)\\n      ^\\n--- End ---\\n"
    )
    program = a_program(tmp_path, f'printf "{said}" >&2; exit 1')

    verdict = await check(program, f'{{"key": "{PLANTED}"')

    assert PLANTED not in verdict.message
    assert verdict.message == (
        "OpenCode 1.18.34 refuses it; correct this: Config file at opencode.json is not valid JSON(C): "
        "CloseBraceExpected at line 1"
    )


async def test_it_inherits_nothing_of_ours_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("VAULT_TOKEN", PLANTED)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = a_program(
        tmp_path, f'env > {tmp_path}/env; pwd >> {tmp_path}/env; touch "$HOME" "$TMPDIR/left"'
    )

    await check(program)

    seen = (tmp_path / "env").read_text()
    assert PLANTED not in seen
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert {"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"} <= names
    assert "OPENCODE_SERVER_PASSWORD" not in names
    assert str(Path.home()) not in [line.partition("=")[2] for line in seen.splitlines()]
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("opencode-check-")] == []


async def test_one_that_breaks_otherwise_is_no_verdict(tmp_path):
    program = a_program(tmp_path, f"echo {PLANTED} >&2; exit 134")

    with pytest.raises(UpstreamNonsense) as broke:
        await check(program)

    assert PLANTED not in broke.value.message


async def test_one_that_never_ends_is_ended_with_everything_it_started(tmp_path):
    program = a_program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; sleep 600")

    running = asyncio.create_task(check(program, seconds=600))
    await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    child = int((tmp_path / "child").read_text())
    await until(lambda: not _runs(child))


async def until(is_so):
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - what is waited for is a file or a process
            await asyncio.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


async def test_the_time_for_it_is_bounded(tmp_path):
    program = a_program(tmp_path, "sleep 600")

    with pytest.raises(DeadlineExceeded):
        await check(program, seconds=0.3)


async def test_what_it_says_is_read_up_to_a_bound_and_does_not_hold_it_up(tmp_path):
    program = a_program(
        tmp_path, 'head -c 3000000 /dev/zero | tr "\\0" x >&2; head -c 3000000 /dev/zero; exit 0'
    )

    assert (await check(program)).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("starts_runtimes", "outcome"), [(True, Outcome.NO_SUCH_PROGRAM), (False, Outcome.NOT_CHECKED)]
)
async def test_a_version_without_a_program_is_told_by_the_path_it_should_have(
    tmp_path, starts_runtimes, outcome
):
    path = f"{tmp_path}/{{version}}/opencode"

    verdict = await check(path, version="1.18.33", starts_runtimes=starts_runtimes)

    assert verdict.outcome is outcome
    assert verdict.message == f"{tmp_path}/1.18.33/opencode is no OpenCode program"


async def test_a_program_of_another_version_is_told_by_what_it_is(tmp_path):
    program = a_program(tmp_path, "exit 0")

    verdict = await check(program, version="1.18.33")

    assert (verdict.outcome, verdict.message) == (
        Outcome.NO_SUCH_PROGRAM,
        f"{program} is OpenCode 1.18.34",
    )


async def test_each_version_is_asked_at_its_own_path(tmp_path):
    for version in ("1.18.33", "1.18.34"):
        (tmp_path / version).mkdir()
        a_program(tmp_path / version, "exit 0", version=version)

    verdicts = [
        await check(f"{tmp_path}/{{version}}/opencode", version=each) for each in ("1.18.33", "1.18.34")
    ]

    assert [each.message for each in verdicts] == [
        "accepted by OpenCode 1.18.33",
        "accepted by OpenCode 1.18.34",
    ]


async def test_a_file_that_cannot_be_run_is_no_program(tmp_path):
    program = a_program(tmp_path, "exit 0")
    os.chmod(program, 0o644)  # noqa: PTH101 - what is tested is the mode

    assert (await check(program)).outcome is Outcome.NO_SUCH_PROGRAM


@pytest.mark.opencode
@pytest.mark.timeout(120)
async def test_the_real_one_tells_good_from_bad(opencode_program):
    checks = OpenCodeConfigCheck(str(opencode_program), starts_runtimes=True)

    async def verdict(managed):
        deadline = Deadline.after(60, "check the managed configuration")
        return await checks.check(version=VERSION, managed=managed, deadline=deadline)

    good = await verdict('{"share": "disabled", "agent": {"build": {"prompt": "Build — {{ well }}."}}}')
    wrong = await verdict('{"share": "nonsense"}')
    broken = await verdict(f'{{"share": "{PLANTED}"')
    missing = await verdict('{"agent": {"build": {"prompt": "{file:./nowhere.md}"}}}')

    assert (good.outcome, good.message) == (Outcome.ACCEPTED, f"accepted by OpenCode {VERSION}")
    assert wrong.outcome is broken.outcome is missing.outcome is Outcome.REFUSED
    assert wrong.message.startswith(f"OpenCode {VERSION} refuses it; correct share: ")
    assert '"disabled"' in wrong.message
    assert PLANTED not in broken.message
    assert "nowhere.md does not exist" in missing.message
