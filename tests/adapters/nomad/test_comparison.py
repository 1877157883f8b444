"""What is read from the diff of Nomad's plan, and what of it is shown."""

import pytest

from opencode_lifecycle.adapters.nomad.comparison import MOST_EDITS, comparison_of
from opencode_lifecycle.model.errors import UpstreamNonsense, UpstreamRejected
from opencode_lifecycle.model.stack import FieldEdit

IN_PLACE = {"DesiredTGUpdates": {"opencode": {"InPlaceUpdate": 1, "DestructiveUpdate": 0}}}
DESTRUCTIVE = {"DesiredTGUpdates": {"opencode": {"DestructiveUpdate": 1}}}


def field(name: str, old: str, new: str) -> dict:
    return {"Type": "Edited", "Name": name, "Old": old, "New": new, "Annotations": None}


def task(fields=(), objects=()) -> dict:
    """Return the diff of a job whose one task differs, in the shape of Nomad 1.11.3."""
    return {
        "Type": "Edited",
        "ID": "oc-ada",
        "Fields": None,
        "Objects": None,
        "TaskGroups": [
            {
                "Type": "Edited",
                "Name": "opencode",
                "Fields": None,
                "Objects": None,
                "Tasks": [
                    {"Type": "Edited", "Name": "server", "Fields": list(fields), "Objects": list(objects)}
                ],
            }
        ],
    }


def objects(name: str, *fields: dict) -> dict:
    return {"Type": "Edited", "Name": name, "Fields": list(fields), "Objects": None}


def read(diff: dict, annotations=IN_PLACE):
    return comparison_of({"Diff": diff, "Annotations": annotations})


def test_an_identical_job_has_no_edits():
    same = {"Type": "None", "ID": "oc-ada", "Fields": None, "Objects": None, "TaskGroups": []}

    assert read(same).edits == ()
    assert not read(same).restart


def test_a_field_is_named_by_its_path_with_what_is_and_what_should_be():
    found = read(task(objects=[objects("Resources", field("MemoryMB", "777", "512"))]), DESTRUCTIVE)

    assert found.edits == (
        FieldEdit(field="TaskGroup[opencode].Task[server].Resources.MemoryMB", have="777", want="512"),
    )
    assert found.restart


def test_a_change_of_resources_restarts_though_the_scheduler_does_not_say_so_yet():
    assert read(task(objects=[objects("Resources", field("MemoryMB", "777", "512"))])).restart


@pytest.mark.parametrize("name", ["Service", "RestartPolicy", "LogConfig"])
def test_what_changes_in_place_does_not_restart(name):
    assert not read(task(objects=[objects(name, field("Attempts", "1", "2"))])).restart


@pytest.mark.parametrize(
    ("name", "inside"),
    [("Affinity", "Weight"), ("Spread", "Weight"), ("LogConfig", "Disabled"), ("Service", "Connect")],
)
def test_what_only_looks_like_it_restarts(name, inside):
    assert read(task(objects=[objects(name, field(inside, "1", "2"))])).restart


def test_a_key_of_somebodys_choosing_is_no_path():
    diff = {
        "Type": "Edited",
        "Fields": [field("Meta[team.Service]", "a", "b")],
        "Objects": None,
        "TaskGroups": None,
    }

    assert read(diff).restart


@pytest.mark.parametrize(
    "change",
    [
        field("Env[TOKEN]", "hunter2", ""),
        field("Config[args][1]", "hunter2", ""),
    ],
)
def test_what_may_be_a_secret_is_named_and_not_quoted(change):
    (edit,) = read(task(fields=[change])).edits

    assert edit.have == "(not shown)"
    assert edit.want == ""


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("Template", "EmbeddedTmpl"),
        ("Config", "auth[0][password]"),
        ("Artifact", "GetterHeaders[Authorization]"),
        ("Service", "Check.Header.Authorization"),
        ("Vault", "Role"),
    ],
)
def test_no_value_of_an_unknown_field_is_quoted(name, inside):
    found = read(task(objects=[objects(name, field(inside, "hunter2", "hunter3"))]))

    assert "hunter" not in repr(found)


def test_meta_of_ours_is_quoted_and_meta_of_others_is_not():
    fields = [field("Meta[image]", "a", "b"), field("Meta[note]", "hunter2", "")]

    ours, other = read({"Type": "Edited", "Fields": fields, "Objects": None, "TaskGroups": None}).edits

    assert (ours.have, ours.want) == ("a", "b")
    assert other.have == "(not shown)"


def test_there_are_never_too_many_and_never_too_long():
    fields = [field(f"Env[{'x' * 5000}{number}]", "a", "b") for number in range(500)]

    found = read(task(fields=fields))

    assert len(found.edits) == MOST_EDITS
    assert all(len(edit.field) <= 200 for edit in found.edits)
    assert found.restart


def test_a_job_that_is_not_there_is_refused():
    with pytest.raises(UpstreamRejected):
        read({"Type": "Added", "Fields": None, "Objects": None, "TaskGroups": None})


@pytest.mark.parametrize("answer", [None, [], "x", {"Diff": []}, {"Diff": {"Type": "Edited", "Fields": [1]}}])
def test_what_is_no_plan_is_nonsense(answer):
    with pytest.raises(UpstreamNonsense):
        comparison_of(answer)
