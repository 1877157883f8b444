"""What the bench says while it works, and at the end."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Figure, table

REPORT = Path(".local/report/bench.json")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def show(figures: Sequence[Figure], machine: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    disk = machine["fdatasync_ms"]
    console.print(
        f"{machine['cores']} cores, {machine['cpu']}, load {machine['load'][0]}, "
        f"fdatasync p50 {disk['p50']} ms, p99 {disk['p99']} ms"
    )
    shown = Table("figure", "measured", "bar", "")
    for row in table(figures):
        shown.add_row(*row)
    console.print(shown)
    for figure in figures:
        console.print(f"[bold]{figure.name}[/bold]")
        console.print_json(json.dumps(figure.details))


def write(figures: Sequence[Figure], machine: Mapping[str, Any], path: Path = REPORT) -> None:
    """Write the report, replacing the figures of this run and keeping the others that stand there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {entry["name"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}
    for figure in figures:
        entry = figure.as_json()
        kept[figure.name] = {**entry, "details": {**entry["details"], "machine": machine}}
    path.write_text(json.dumps(list(kept.values()), indent=2) + "\n")
