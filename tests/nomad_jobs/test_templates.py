"""The job templates as files: what they declare, and that their README tells the truth about it."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.job_template import declared_variables
from opencode_lifecycle.shipped import shipped

DRIVERS = {"raw_exec": "opencode-raw-exec.nomad.hcl", "docker": "opencode-docker.nomad.hcl"}
_BLOCK = re.compile(r'^variable "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `(\w+)` \| `(.+?)` \| (.+?) \| (.+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Declared:
    type: str
    description: str
    default: str | None


def text_of(driver: str) -> str:
    return shipped(f"nomad_jobs/{DRIVERS[driver]}").read_text()


def variables_of(driver: str) -> dict[str, Declared]:
    def attribute(block: str, name: str) -> str | None:
        found = re.search(rf"^  {name} += (.*)$", block, re.MULTILINE)
        return found[1] if found else None

    return {
        name: Declared(
            type=attribute(block, "type") or "",
            description=(attribute(block, "description") or "").strip('"'),
            default=attribute(block, "default"),
        )
        for name, block in _BLOCK.findall(text_of(driver))
    }


def shown(default: str | None) -> str:
    return "required" if default is None else f"`{default}`"


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_variable_has_a_type_and_a_description(driver):
    for name, declared in variables_of(driver).items():
        assert declared.type, name
        assert declared.description.endswith("."), name


def test_both_drivers_take_the_same_variables():
    raw_exec, docker = (variables_of(driver) for driver in DRIVERS)

    assert {name: each.type for name, each in raw_exec.items()} == {
        name: each.type for name, each in docker.items()
    }


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_service_sees_every_variable(driver):
    assert declared_variables(text_of(driver)) == set(variables_of(driver))


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_variable_is_used(driver):
    text = text_of(driver)
    without_checks = re.sub(r"validation \{.*?\n  \}", "", text, flags=re.DOTALL)

    assert [name for name in variables_of(driver) if f"var.{name}" not in without_checks] == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_readme_lists_every_variable_as_it_is(driver):
    rows = {row[0]: row for row in _ROW.findall(Path(shipped("nomad_jobs/README.md")).read_text())}
    raw_exec, docker = (variables_of(each) for each in DRIVERS)

    assert list(rows) == list(variables_of(driver))
    for name, (_, kind, default, source) in rows.items():
        assert kind == raw_exec[name].type
        ours, theirs = shown(raw_exec[name].default), shown(docker[name].default)
        assert default == (ours if ours == theirs else f"{ours}; docker: {theirs}")
        assert source


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_meta_holds_the_restart_facets_and_whose_it_is_and_nothing_else(driver):
    block = re.search(r"^  meta \{\n(.*?)^  \}", text_of(driver), re.MULTILINE | re.DOTALL)
    facets = Facets(
        image="",
        opencode_version="",
        template="",
        environment="",
        resources="",
        secret_version=1,
        prompt="",
        config="",
        labels="",
        endpoints="",
    )

    keys = set(re.findall(r"^    (\w+) +=", block[1], re.MULTILINE))

    assert keys == {*facets.meta(), "user", "installation", "managed_by"}
