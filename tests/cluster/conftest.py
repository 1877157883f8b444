"""Fixtures for tests of finding and making the servers."""

import os
from pathlib import Path

import pytest

from cluster.pretending import Heard, Script
from opencode_lifecycle.cluster.cache import Cache


@pytest.fixture
def script() -> Script:
    """Write an executable shell script."""

    def write(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first directory on PATH, for programs that stand in for those of the machine."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


@pytest.fixture
def heard() -> Heard:
    return Heard()
