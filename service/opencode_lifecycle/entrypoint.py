"""
What a runtime's task runs: it starts OpenCode as the only server of a workspace, and leaves nothing behind.

    python3 -I -S entrypoint.py --workspace DIR --secrets FILE --opencode-version VERSION --restore SNAPSHOT
        -- opencode serve --hostname HOST --port PORT

OpenCode without a password is an open server, OpenCode does not end the programs its agent started, and two servers on
one workspace destroy each other's sessions. So this refuses a password that is missing or was never rendered, holds a
lock on the workspace for as long as anything runs, becomes the parent of every orphan below it, and ends them all when
it is told to stop or when the server ends. Between the lock and the start it has the folder workspace_data, which lies beside it,
make the data ready for the version that starts, and leaves the report of that where Nomad can read it. It uses the
standard library alone, and little of it: it runs before every start, in images that hold nothing else of ours.

Exit codes: 64 bad arguments, 65 the data is newer than the version, 73 the workspace cannot be used, 74 no room for a
snapshot, 75 the workspace is in use, 78 no usable password, 127 the program is not there; otherwise the server's own,
128 + N when signal N ended it.
"""

# No pathlib: its import alone would add half to the time this takes before the server starts.
# ruff: noqa: PTH103, PTH105, PTH108, PTH117, PTH118, PTH120, PTH123, PTH208

import ctypes
import fcntl
import json
import os
import signal
import sys
import time

EXIT_USAGE = 64
EXIT_WORKSPACE = 73
EXIT_IN_USE = 75
EXIT_PASSWORD = 78
EXIT_NOT_FOUND = 127

USAGE = (
    "usage: entrypoint.py --workspace DIR --secrets FILE [--opencode-version V] [--restore ID] -- COMMAND..."
)

PASSWORD = "OPENCODE_SERVER_PASSWORD"  # noqa: S105 - the name of a variable
DIRECTORIES = ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "TMPDIR")
PROJECT = "project"
LOCK = ".opencode-lifecycle.lock"
DATA = "opencode"
"""OpenCode's folder in the data directory."""
REPORT = "data/opencode-lifecycle.json"
"""In the allocation's shared directory, which Nomad's file API shows."""

SECONDS_TO_TERMINATE = 4.0
"""How long the server may take to end after SIGTERM, and then its descendants. The job gives the whole stop 15 s."""
SECONDS_TO_KILL = 3.0
POLL_SECONDS = 0.02

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
INHERITED_AS_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores them, and an ignored signal stays ignored across exec."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Refused(Exception):
    """The server is not started. Says why in one line, and with which code to exit."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def parse(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """
    Return the options and the command, or refuse.

    A release keeps the text of its template for ever, and one that is older than this names no version.
    """
    options = {"--workspace": "", "--secrets": "", "--opencode-version": "", "--restore": ""}
    rest = list(arguments)
    while len(rest) > 1 and rest[0] in options:
        options[rest[0]] = rest[1]
        del rest[:2]
    version = options["--opencode-version"].split(".")
    if rest[:1] != ["--"] or not rest[1:] or not options["--secrets"]:
        raise Refused(EXIT_USAGE, USAGE)
    if not os.path.isabs(options["--workspace"]):
        raise Refused(EXIT_USAGE, "the workspace must be an absolute path")
    if version != [""] and not (len(version) == 3 and all(number.isdecimal() for number in version)):  # noqa: PLR2004 - as in 1.18.34
        raise Refused(EXIT_USAGE, "the version of OpenCode must be three numbers")
    return options, rest[1:]


def read_secrets(file: str) -> dict[str, str]:
    """
    Return the variables of *file*: lines of NAME="value", the value a JSON string, so that it may hold anything.

    Nomad's own way, `env = true`, is of no use here: the environment of a template that is rendered once gets lost when
    templates of the same task are watched, depending on which are done last.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            pairs = [line.strip().partition("=") for line in lines if line.strip()]
        return {name: str(json.loads(value)) for name, _, value in pairs}
    except (OSError, ValueError):
        raise Refused(EXIT_PASSWORD, "the file of secrets cannot be read or was not rendered") from None


def check_password(password: str | None) -> None:
    """Refuse what no password store would write: nothing, blanks, or the text of a template that was not rendered."""
    if password is None or not password.strip():
        raise Refused(EXIT_PASSWORD, f"{PASSWORD} is empty: the server would be open to everyone")
    if any(sign in password for sign in ("<no value>", "<nil>", "${", "{{", "%!")):
        raise Refused(EXIT_PASSWORD, f"{PASSWORD} was not rendered: the secret is missing or incomplete")


def lock_workspace(workspace: str) -> int:
    """
    Take the workspace for ourselves and return the descriptor that holds it.

    Children do not inherit it, and the kernel drops it with us, so a lock that is held means a server that is alive.
    """
    try:
        descriptor = os.open(os.path.join(workspace, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(EXIT_WORKSPACE, f"the workspace {workspace} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Refused(EXIT_IN_USE, f"the workspace {workspace} is in use by another server") from None
    return descriptor


def make_directories(workspace: str) -> str:
    """Create what OpenCode expects to be there, and return the project directory, where it starts."""
    project = os.path.join(workspace, PROJECT)
    for path in [project, *(os.environ[name] for name in DIRECTORIES if os.environ.get(name))]:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise Refused(EXIT_WORKSPACE, f"{path} cannot be made: {error.strerror}") from None
    return project


def make_data_ready(workspace: str, version: str, restore: str) -> None:
    """Have the data kept safe from *version* and it from the data, leave the report, or refuse."""
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
    try:
        import workspace_data  # type: ignore[import-not-found]  # noqa: PLC0415 - beside us, wherever that is
    except ImportError:
        raise Refused(EXIT_USAGE, "the folder workspace_data is not beside the entrypoint") from None
    finally:
        del sys.path[0]
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(workspace, "data")
    report = workspace_data.prepare(workspace, os.path.join(data, DATA), version, restore)
    if os.environ.get("NOMAD_ALLOC_DIR"):
        leave_report(os.path.join(os.environ["NOMAD_ALLOC_DIR"], REPORT), report)
    if report["refused"] is not None:
        raise Refused(report["refused"]["code"], report["refused"]["reason"])


def leave_report(path: str, report: object) -> None:
    """Write *report* as a whole. It is for people and the control plane: without it the server runs as well."""
    fresh = f"{path}.new"
    try:
        if os.path.lexists(fresh):
            os.unlink(fresh)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # nothing that the agent has put there
        with open(os.open(fresh, flags, 0o644), "w", encoding="utf-8") as file:
            json.dump(report, file)
        os.replace(fresh, path)
    except OSError as error:
        sys.stderr.write(f"opencode-lifecycle: the report cannot be written: {error.strerror}\n")


def control(option: int, value: int) -> None:
    """Set one of the kernel's process attributes, see prctl(2)."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(command: list[str], directory: str) -> int:
    """Start *command* in *directory* and in a session of its own; return its process id."""
    read_end, write_end = os.pipe()  # closed by a successful exec, so that a failed one is told here
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            control(PR_SET_PDEATHSIG, signal.SIGKILL)  # the lock ends with us, so the server must, too
            if os.getppid() != parent:
                os._exit(EXIT_NOT_FOUND)
            os.setsid()
            os.chdir(directory)
            for number in INHERITED_AS_IGNORED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvp(command[0], command)  # noqa: S606 - an argument vector, never a shell
        except OSError as error:
            os.write(write_end, (error.strerror or "error").encode())
        os._exit(EXIT_NOT_FOUND)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as failure:
        reason = failure.read().decode(errors="replace")
    if reason:
        os.waitpid(child, 0)
        raise Refused(EXIT_NOT_FOUND, f"{command[0]} cannot be started: {reason}")
    return child


def supervise(child: int) -> int:
    """Wait for *child*, forwarding signals and reaping orphans; return its exit code. A stop has an end."""
    kill_at: float | None = None
    while True:
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == child:
                return code_of(status)
            if ended == 0:
                break
        left = 3600.0 if kill_at is None else kill_at - time.monotonic()
        received = signal.sigtimedwait((*FORWARDED, signal.SIGCHLD), max(left, 0.0))
        if received is None and kill_at is not None:
            os.kill(child, signal.SIGKILL)
        elif received is not None and received.si_signo != signal.SIGCHLD:
            os.kill(child, received.si_signo)
            if received.si_signo in STOPPING and kill_at is None:
                kill_at = time.monotonic() + SECONDS_TO_TERMINATE


def code_of(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def end_descendants() -> None:
    """End every process below us: first asked, then killed. What is forked meanwhile is found by the next look."""
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_TERMINATE), (signal.SIGKILL, SECONDS_TO_KILL)):
        until = time.monotonic() + seconds
        told: set[int] = set()
        while time.monotonic() < until:
            reap()
            living = descendants()
            if not living:
                return
            for process in living:
                if process not in told or number is signal.SIGKILL:
                    told.add(process)
                    tell(process, number)
            time.sleep(POLL_SECONDS)


def tell(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return
    except PermissionError:
        return  # it took another user's rights; the killing of its parent is all that is left


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def descendants() -> list[int]:
    """Return all processes below us that still run, read from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent, state = parent_and_state(name)
            if parent and state != "Z":
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def parent_and_state(process: str) -> tuple[int, str]:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except OSError:
        return 0, ""
    return int(fields[1]), fields[0].decode()


def run(arguments: list[str]) -> int:
    options, command = parse(arguments)
    workspace = options["--workspace"]
    secrets = read_secrets(options["--secrets"])
    check_password(
        secrets.get(PASSWORD)
    )  # one that the host's own environment happens to hold counts for nothing
    os.environ.update(secrets)
    lock_workspace(workspace)
    directory = make_directories(workspace)
    make_data_ready(workspace, options["--opencode-version"], options["--restore"])
    control(PR_SET_CHILD_SUBREAPER, 1)  # orphans below us become our children, where the end finds them
    signal.pthread_sigmask(signal.SIG_BLOCK, (*FORWARDED, signal.SIGCHLD))
    try:
        return supervise(start(command, directory))
    finally:
        end_descendants()


def main() -> int:
    try:
        return run(sys.argv[1:])
    except Refused as refused:
        sys.stderr.write(f"opencode-lifecycle: {refused}\n")
        return refused.code


if __name__ == "__main__":
    sys.exit(main())
