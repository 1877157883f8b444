"""
A program that treats its database as OpenCode does: it migrates forward, keeps a write-ahead log, and dies without a word.

    stand_in_opencode.py NUMBER_OF_MIGRATIONS SESSION
"""

import os
import signal
import sqlite3
import sys
from pathlib import Path


def main() -> None:
    known, session = int(sys.argv[1]), sys.argv[2]
    directory = Path(os.environ["XDG_DATA_HOME"]) / "opencode"
    directory.mkdir(exist_ok=True)
    connection = sqlite3.connect(directory / "opencode.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS migration (id TEXT PRIMARY KEY, time_completed INTEGER)")
    connection.execute("CREATE TABLE IF NOT EXISTS session (id TEXT PRIMARY KEY)")
    for number in range(1, known + 1):
        connection.execute("INSERT OR IGNORE INTO migration VALUES (?, 0)", [f"2026{number:04}_step"])
    connection.execute("INSERT OR REPLACE INTO session VALUES (?)", [session])
    connection.commit()
    (directory / "auth.json").write_text(f'{{"{known}": "credential-of-a-provider"}}')
    os.kill(os.getpid(), signal.SIGKILL)


main()
