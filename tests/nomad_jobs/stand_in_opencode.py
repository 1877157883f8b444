"""
A program that treats its database as OpenCode does: it migrates forward, keeps a write-ahead log, and dies without a word.

    stand_in_opencode.py NUMBER_OF_MIGRATIONS [SESSION]

With SESSION somebody says something in it, and logs in to a provider.
"""

import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

TABLES = (
    "migration (id TEXT PRIMARY KEY, time_completed INTEGER)",
    "session (id TEXT PRIMARY KEY, title TEXT, time_created INTEGER, time_updated INTEGER)",
    "message (id TEXT PRIMARY KEY, session_id TEXT, time_created INTEGER, time_updated INTEGER, data TEXT)",
    "part (id TEXT PRIMARY KEY, message_id TEXT, session_id TEXT, data TEXT)",
    "project (id TEXT PRIMARY KEY, name TEXT, time_updated INTEGER)",
)


def main() -> None:
    known, session = int(sys.argv[1]), "".join(sys.argv[2:])
    directory = Path(os.environ["XDG_DATA_HOME"]) / "opencode"
    directory.mkdir(exist_ok=True)
    connection = sqlite3.connect(directory / "opencode.db")
    connection.execute("PRAGMA journal_mode = WAL")
    now = time.time_ns() // 1_000_000
    for table in TABLES:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    for number in range(1, known + 1):
        connection.execute("INSERT OR IGNORE INTO migration VALUES (?, 0)", [f"2026{number:04}_step"])
    connection.execute("INSERT OR REPLACE INTO project VALUES ('global', NULL, ?)", [now])
    if session:
        connection.execute("INSERT OR REPLACE INTO session VALUES (?, 'New', ?, ?)", [session, now, now])
        for number in range(2):
            message = f"{session}-{number}"
            connection.execute(
                "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, '{}')", [message, session, now, now]
            )
            connection.execute(
                "INSERT OR REPLACE INTO part VALUES (?, ?, ?, 'x')", [message, message, session]
            )
        (directory / "auth.json").write_text(f'{{"{known}": "credential-of-a-provider"}}')
    connection.commit()
    os.kill(os.getpid(), signal.SIGKILL)


main()
