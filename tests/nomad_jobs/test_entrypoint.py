"""What the entrypoint of every runtime promises, shown on programs that stand in for OpenCode."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opencode_lifecycle import entrypoint

PASSWORD = "s3cret_of-this-test"
SOURCE = Path(entrypoint.__file__)


def until(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Runtime:
    """An entrypoint and what it needs: a workspace, a file of secrets, an environment."""

    def __init__(self, directory: Path) -> None:
        self.workspace = directory / "workspace"
        self.workspace.mkdir()
        self.secrets = directory / "secrets.env"
        self.started: list[subprocess.Popen[str]] = []
        self.write(OPENCODE_SERVER_PASSWORD=PASSWORD)

    def write(self, **secrets: str) -> None:
        self.secrets.write_text(
            "\n".join(f"  {name}={json.dumps(value)}\n" for name, value in secrets.items())
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(SOURCE),
                "--workspace",
                str(self.workspace),
                "--secrets",
                str(self.secrets),
                "--",
                *command,
            ],
            env={"PATH": os.environ["PATH"], **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *command: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err

    def number_in(self, name: str) -> int:
        """Return the process id that a program has written into a file of the project directory."""
        file = self.workspace / "project" / name
        until(lambda: file.exists() and file.read_text().strip() != "", f"{name} is written")
        return int(file.read_text())


@pytest.fixture
def runtime(tmp_path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path)
    yield runtime
    for process in runtime.started:
        process.kill()
        process.communicate()


def test_the_server_runs_in_the_project_directory_of_the_workspace(runtime):
    code, out, _ = runtime.run("pwd")

    assert (code, out.strip()) == (0, str(runtime.workspace / "project"))


def test_the_exit_code_is_the_servers(runtime):
    assert runtime.run("sh", "-c", "exit 7")[0] == 7


def test_a_server_that_a_signal_ended_gives_128_and_its_number(runtime):
    assert runtime.run("sh", "-c", "kill -9 $$")[0] == 128 + 9


def test_the_secrets_reach_the_server_whatever_they_hold(runtime):
    value = "quote \" back \\ dollar ${HOME} {{ braces }} # hash ' and\nnewline é"
    runtime.write(OPENCODE_SERVER_PASSWORD=PASSWORD, MODEL_KEY=value)

    _, out, _ = runtime.run("sh", "-c", 'printf "%s|%s" "$OPENCODE_SERVER_PASSWORD" "$MODEL_KEY"')

    assert out == f"{PASSWORD}|{value}"


def test_the_password_is_in_no_command_line(runtime):
    process = runtime.start("sh", "-c", "echo $$ > pid; exec sleep 60")
    child = runtime.number_in("pid")

    for each in (process.pid, child):
        assert PASSWORD not in Path(f"/proc/{each}/cmdline").read_text()


@pytest.mark.parametrize(
    "password", ["", "   ", "<no value>", "${secret.password}", "{{ .password }}", "%!s(<nil>)"]
)
def test_a_password_that_cannot_be_one_is_refused(runtime, password):
    runtime.write(OPENCODE_SERVER_PASSWORD=password)

    code, out, err = runtime.run("echo", "started")

    assert (code, out) == (entrypoint.EXIT_PASSWORD, "")
    assert len(err.splitlines()) == 1
    assert "OPENCODE_SERVER_PASSWORD" in err


@pytest.mark.parametrize("text", [None, "", 'OTHER="x"', "OPENCODE_SERVER_PASSWORD=<no value>", "nonsense"])
def test_a_file_of_secrets_without_a_password_is_refused(runtime, text):
    if text is None:
        runtime.secrets.unlink()
    else:
        runtime.secrets.write_text(text)

    code, out, err = runtime.run("echo", "started", OPENCODE_SERVER_PASSWORD="of-the-host")

    assert (code, out) == (entrypoint.EXIT_PASSWORD, "")
    assert len(err.splitlines()) == 1


def test_a_refusal_does_not_repeat_what_it_refuses(runtime):
    runtime.secrets.write_text(f'OPENCODE_SERVER_PASSWORD="${{{PASSWORD}}}"')

    assert PASSWORD not in runtime.run("true")[2]


def test_two_servers_never_share_a_workspace(runtime):
    runtime.start("sh", "-c", "echo $$ > pid; exec sleep 60")
    runtime.number_in("pid")

    code, out, err = runtime.run("echo", "started")

    assert (code, out) == (entrypoint.EXIT_IN_USE, "")
    assert "in use" in err


def test_a_workspace_is_free_again_when_its_server_has_ended(runtime):
    runtime.run("true")

    assert runtime.run("true")[0] == 0


def test_the_server_dies_with_an_entrypoint_that_is_killed(runtime):
    process = runtime.start("sh", "-c", "echo $$ > pid; exec sleep 60")
    server = runtime.number_in("pid")

    process.kill()

    until(lambda: not is_alive(server), "the server is gone")


def test_the_directories_that_opencode_needs_are_made(runtime):
    names = {name: str(runtime.workspace / name.lower()) for name in entrypoint.DIRECTORIES}

    runtime.run("true", **names)

    assert all(Path(path).is_dir() for path in names.values())


def test_a_workspace_that_is_not_there_is_refused(runtime):
    runtime.workspace.rmdir()

    code, _, err = runtime.run("true")

    assert code == entrypoint.EXIT_WORKSPACE
    assert len(err.splitlines()) == 1


def test_a_program_that_is_not_there_is_said(runtime):
    code, _, err = runtime.run("no-such-opencode")

    assert code == entrypoint.EXIT_NOT_FOUND
    assert "no-such-opencode" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_reaches_the_server(runtime, number):
    process = runtime.start(
        "sh", "-c", "trap 'exit 5' TERM INT HUP; echo $$ > pid; while :; do sleep 0.05; done"
    )
    runtime.number_in("pid")

    process.send_signal(number)

    assert process.wait(timeout=10) == 5


def test_a_server_that_ignores_the_stop_is_killed(runtime):
    process = runtime.start("sh", "-c", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done")
    runtime.number_in("pid")

    process.terminate()

    assert process.wait(timeout=entrypoint.SECONDS_TO_TERMINATE + 5) == 128 + 9


def test_what_the_server_left_in_the_background_ends_with_it(runtime):
    process = runtime.start(
        "sh", "-c", "setsid sh -c 'echo $$ > orphan; exec sleep 60' & sleep 0.1; echo $$ > pid; exec sleep 60"
    )
    orphan = runtime.number_in("orphan")
    runtime.number_in("pid")

    process.terminate()

    process.wait(timeout=10)
    assert not is_alive(orphan)


def test_what_a_server_that_ended_by_itself_left_behind_ends_too(runtime):
    code, _, _ = runtime.run(
        "sh", "-c", "setsid sh -c 'echo $$ > orphan; exec sleep 60' >/dev/null 2>&1 & sleep 0.3; exit 3"
    )

    assert code == 3
    assert not is_alive(runtime.number_in("orphan"))


def test_a_background_program_that_ignores_the_stop_is_killed(runtime):
    process = runtime.start(
        "sh",
        "-c",
        "setsid sh -c 'trap \"\" TERM; echo $$ > orphan; while :; do sleep 0.05; done' & echo $$ > pid; exec sleep 60",
    )
    orphan = runtime.number_in("orphan")
    runtime.number_in("pid")

    process.terminate()

    process.wait(timeout=20)
    assert not is_alive(orphan)


def test_broken_pipes_end_the_servers_programs_as_usual(runtime):
    """Python ignores SIGPIPE, and what is ignored is inherited."""
    _, out, _ = runtime.run("sh", "-c", "grep SigIgn /proc/self/status")

    ignored = int(out.split()[1], 16)
    assert not ignored >> (signal.SIGPIPE - 1) & 1


@pytest.mark.parametrize(
    "arguments", [[], ["--workspace", "/tmp"], ["--workspace", "relative", "--secrets", "/x", "--", "true"]]
)
def test_wrong_arguments_are_a_usage_error(arguments):
    answer = subprocess.run(
        [sys.executable, "-I", "-S", str(SOURCE), *arguments], capture_output=True, text=True, check=False
    )

    assert answer.returncode == entrypoint.EXIT_USAGE


def test_the_entrypoint_imports_little(runtime):
    """Each module costs time before every start; these are what it needs."""
    code = "import sys; before = set(sys.modules); import runpy; runpy.run_path(sys.argv[1], run_name='x'); print(len(set(sys.modules) - before))"

    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(SOURCE)], capture_output=True, text=True, check=True
    )

    assert int(answer.stdout) < 60
