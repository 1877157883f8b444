"""What makes a release the one it is, and what of it is delivered."""

from dataclasses import replace

import pytest

from database_examples import NOW, a_release, a_stack
from opencode_lifecycle.lifecycle.reconciling.wanted import job_variables, wanted_facets
from opencode_lifecycle.lifecycle.releases import ReleaseContent
from opencode_lifecycle.model.release import managed_text, release_id_of
from world import SITE, content


def test_the_order_in_which_things_were_named_makes_no_other_release():
    one = content(environment={"A": "1", "B": "2"}, agent_prompts={"x": "1", "y": "2"})
    other = content(environment={"B": "2", "A": "1"}, agent_prompts={"y": "2", "x": "1"})

    assert one.id == other.id


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "other"},
        {"opencode_version": "1.18.33"},
        {"template": "other"},
        {"instructions": "other"},
        {"managed_config": "{ }"},
        {"agent_prompts": {"build": ""}},
        {"environment": {"A": ""}},
        {"resource_classes": {}},
    ],
)
def test_any_other_content_is_another_release(changes):
    assert content(**changes).id != content().id


def test_an_id_is_the_same_on_every_machine_and_for_ever():
    assert release_id_of(["ü", {"b": 1, "a": None}]) == "rel_55ZET6MCHP0AYB2XG5FZX08G8Z"


def test_a_note_and_who_made_it_are_no_content():
    release = a_release()

    assert ReleaseContent.of(release) == ReleaseContent.of(replace(release, note="x", created_by="y"))


def test_a_prompt_takes_the_place_of_one_that_the_configuration_has():
    managed = '{"agent": {"build": {"prompt": "old", "mode": "all"}}}'

    assert managed_text(managed, {"build": "new"}) == '{"agent":{"build":{"mode":"all","prompt":"new"}}}'


def test_prompts_are_a_part_of_the_configuration_and_the_instructions_are_not():
    plain, prompted = a_release(), replace(a_release(), agent_prompts={"build": "x"})
    changed = {name for name, digest in prompted.digests.items() if digest != plain.digests[name]}

    assert changed == {"config"}


def test_a_version_in_the_path_of_the_program_is_the_releases_and_no_part_of_the_template():
    stack = a_stack()
    site = replace(SITE, opencode_path="/opt/{version}/opencode")
    older = content(opencode_version="1.18.33").release(now=NOW, created_by="x")
    newer = content(opencode_version="1.18.34").release(now=NOW, created_by="x")

    before, after = (wanted_facets(stack, each, site, secret_version=1) for each in (older, newer))

    assert replace(before, opencode_version="1.18.34") == after
    assert job_variables(stack, older, site, before)["opencode_path"] == "/opt/1.18.33/opencode"
    assert job_variables(stack, newer, site, after)["opencode_path"] == "/opt/1.18.34/opencode"
