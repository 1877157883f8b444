"""
Runs `workspace_data.prepare`, and kills itself at one of the moments when something on disk changes.

    dying_at.py MOMENT TRACE WORKSPACE VERSION RESTORE [FREE_BYTES]

MOMENT counts from 0; one that is never reached lets it run to its end, and its report is printed. A write that it dies at is
done by half. Every change, and every file that was made durable, is written to TRACE.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

BESIDE = Path(__file__).parents[2] / "service/opencode_lifecycle"
CHANGES = ("mkdir", "rename", "unlink")


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class Disk:
    def __init__(self, moment: int, trace: Path) -> None:
        self.left = moment
        self.trace = trace.open("w", buffering=1)

    def reach(self, *what: str) -> None:
        self.trace.write(json.dumps(what) + "\n")
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def change(self, name: str) -> Any:
        def change(*arguments: Any, **options: Any) -> Any:
            self.reach(name, *(str(each) for each in arguments if isinstance(each, str)))
            return getattr(os, name)(*arguments, **options)

        return change

    def sync(self, descriptor: int) -> None:
        self.reach("fsync", path_of(descriptor))
        os.fsync(descriptor)

    def open(self, descriptor: int, mode: str) -> Any:
        file = open(descriptor, mode, buffering=0)  # noqa: SIM115 - closed by whoever opened it
        return File(self, file) if "w" in mode else file


class File:
    def __init__(self, disk: Disk, file: Any) -> None:
        self.disk = disk
        self.file = file
        self.path = path_of(file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.disk.reach("write", self.path)
        self.file.write(data[len(data) // 2 :])


def main() -> None:
    moment, trace, workspace, version, restore, *free = sys.argv[1:]
    sys.path.insert(0, str(BESIDE))  # as the entrypoint finds it
    module: Any = importlib.import_module("workspace_data")
    disk = Disk(int(moment), Path(trace))
    instead = {name: disk.change(name) for name in CHANGES} | {"fsync": disk.sync}
    if free:
        instead["statvfs"] = lambda _: SimpleNamespace(f_bavail=int(free[0]), f_frsize=1)
    for part in (module, module.files, module.snapshots):
        part.os = SimpleNamespace(**{**vars(os), **instead})
    module.files.open = disk.open
    report = module.prepare(workspace, f"{workspace}/data/opencode", version, restore)
    sys.stdout.write(json.dumps(report))


main()
