"""
OpenCode's own check of a configuration: `opencode debug config` in a process with a home of its own.

It runs as a runtime does, but for what would reach beyond it: no plugin is loaded or fetched, nothing of our environment
is inherited, and everything it writes is gone when it has ended.
"""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.ports.config_check import ConfigVerdict, Outcome

SYSTEM: Final = "opencode"
VERSION_MARK: Final = "{version}"
_OPERATION: Final = "check the managed configuration"
_MOST_BYTES: Final = 256 * 1024
"""Of what it says of a configuration, which it repeats when that is no JSON."""
_PIECE: Final = 16 * 1024
_LONGEST_MESSAGE: Final = 600
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_ECHO: Final = re.compile(r"--- JSONC Input ---.*?--- Errors ---", re.DOTALL)
_EXCERPT: Final = re.compile(r"^[ \t]*(?:Line \d+:.*|\^[ \t]*)$", re.MULTILINE)
"""The line that is wrong, and what points at the place in it."""
_ISSUE: Final = re.compile(r"^\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} (.*?)(?: ([^\s\"']*))?$", re.MULTILINE)
"""What is wrong with a value, and the way to it, which is empty for the whole."""
_CLOSING: Final = re.compile(r"--- End ---\s*\Z")
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+\S*")


class OpenCodeConfigCheck:
    """
    Asks the program at *path*, in which `{version}` stands for the version that is asked about. *starts_runtimes* says
    that runtimes are started from the same path, so that one that is not there cannot be run either.

    One at a time: a start takes seconds of processor time, which the service has better use for.
    """

    def __init__(self, path: str, *, starts_runtimes: bool) -> None:
        self._path = path
        self._without_program = Outcome.NO_SUCH_PROGRAM if starts_runtimes else Outcome.NOT_CHECKED
        self._turn = asyncio.Semaphore(1)
        self._versions: dict[tuple[str, int, int], str] = {}

    async def check(self, *, version: str, managed: str, deadline: Deadline) -> ConfigVerdict:
        program = Path(self._path.replace(VERSION_MARK, version))
        async with deadline.enforce(), self._turn:
            with tempfile.TemporaryDirectory(prefix="opencode-check-", ignore_cleanup_errors=True) as place:
                there = await self._version_of(program, Path(place))
                if there != version:
                    what = f"is OpenCode {there}" if there else "is no OpenCode program"
                    return ConfigVerdict(outcome=self._without_program, message=f"{program} {what}")
                return await _debug_config(program, Path(place), version, managed)

    async def _version_of(self, program: Path, place: Path) -> str | None:
        """Return which version the program says it is, or None when it cannot be run. A file is asked once."""
        key = _file_of(program)
        if key is None:
            return None
        if key not in self._versions:
            try:
                code, said, _ = await _run([str(program), "--version"], place)
            except OSError:
                return None
            match = _VERSION.search(said)
            if code != 0 or match is None:
                return None
            self._versions = {**self._versions, key: match[0]}
        return self._versions[key]


def _file_of(program: Path) -> tuple[str, int, int] | None:
    """Return what tells a program from another that takes its place, or None when there is none."""
    try:
        seen = program.stat()
    except OSError:
        return None
    return (str(program), seen.st_mtime_ns, seen.st_size)


async def _debug_config(program: Path, place: Path, version: str, managed: str) -> ConfigVerdict:
    folder = place / "managed"
    folder.mkdir()
    (folder / "opencode.json").write_text(managed)
    code, _, said = await _run([str(program), "debug", "config"], place)
    if code == 0:
        return ConfigVerdict(outcome=Outcome.ACCEPTED, message=f"accepted by OpenCode {version}")
    if str(folder) not in said:
        raise UpstreamNonsense(
            SYSTEM, _OPERATION, f"it ended with {code} and said nothing of the configuration"
        )
    return ConfigVerdict(
        outcome=Outcome.REFUSED, message=f"OpenCode {version} refuses it; correct {_plain(said, folder)}"
    )


async def _run(command: Sequence[str], place: Path) -> tuple[int, str, str]:
    """Run *command* in *place* and return its exit code and what it said, each up to a bound. It leaves no process behind."""
    (place / "work").mkdir(exist_ok=True)
    (place / "tmp").mkdir(exist_ok=True)
    process = await _started(command, place)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        out, err = await asyncio.gather(_bounded(process.stdout), _bounded(process.stderr))
        return await process.wait(), out, err
    finally:
        await _end(process)


async def _started(command: Sequence[str], place: Path) -> asyncio.subprocess.Process:
    """Start *command*. Who gives up while it starts would leave behind what it has started itself by then: it is ended first."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            cwd=place / "work",
            env=_environment(place),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _end(await starting)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it and what it may have started, which shares its session, and read what is left, so that nothing stays open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()


def _environment(place: Path) -> Mapping[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(place / "home"),
        "XDG_CONFIG_HOME": str(place / "config"),
        "XDG_DATA_HOME": str(place / "data"),
        "XDG_STATE_HOME": str(place / "state"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "TMPDIR": str(place / "tmp"),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_PURE": "1",
        "OPENCODE_TEST_MANAGED_CONFIG_DIR": str(place / "managed"),
    }


async def _bounded(stream: asyncio.StreamReader) -> str:
    """Read to the end, so that the process is not held up, and keep what fits."""
    kept = bytearray()
    while piece := await stream.read(_PIECE):
        kept += piece[: _MOST_BYTES - len(kept)]
    return kept.decode(errors="replace")


def _plain(said: str, folder: Path) -> str:
    """
    Return what is to be corrected, on one line: each value that it names first, with what is wrong about it.

    Colours, our paths and the configuration itself are left out.
    """
    text = _CLOSING.sub("", _EXCERPT.sub("", _ECHO.sub("", _COLOUR.sub("", said)))).replace(f"{folder}/", "")
    issues = [f"{place or 'this'}: {what}" for what, place in _ISSUE.findall(text)]
    line = " ".join(("; ".join(issues) or f"this: {text.strip().removeprefix('Error: ')}").split())
    return line[:_LONGEST_MESSAGE]
