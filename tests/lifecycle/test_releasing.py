"""Making releases: what is refused and where, what is checked by others, and what is stored."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.nomad import FakeNomad
from fakes.store import FakeStore
from opencode_lifecycle.lifecycle.releases import Releases, release_of_settings
from opencode_lifecycle.lifecycle.requests.release_checks import ReleaseChecks, ReleaseRules
from opencode_lifecycle.lifecycle.requests.releasing import Releasing
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import (
    BundleTooLarge,
    InvalidBody,
    ReleaseNotFound,
    RolloutActive,
    UpstreamRejected,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.release import ReleaseWish, ResourceClass
from opencode_lifecycle.ports.config_check import ConfigVerdict, NoConfigCheck, Outcome
from rollout_examples import a_stored_rollout
from world import OPERATOR, SITE, content

CHANGED = ReleaseWish(instructions="Be brief.")


class ScriptedCheck:
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self):
        self.verdict = ConfigVerdict(outcome=Outcome.ACCEPTED, message="accepted by OpenCode 1.18.34")
        self.asked = []
        self.fails_with = None

    async def check(self, *, version, managed, deadline):
        self.asked.append((version, managed))
        if self.fails_with is not None:
            raise self.fails_with
        return self.verdict


class Place:
    """The use cases of releases over a store and a Nomad in memory."""

    def __init__(self, **rules):
        self.store, self.nomad, self.config = FakeStore(), FakeNomad(), ScriptedCheck()
        self.releases = Releases(self.store)
        self.rules = ReleaseRules(
            **{"allowed_environment": frozenset({"TZ"}), "default_resources": "small", **rules}
        )
        self.config_check = self.config

    async def open(self, **settings):
        self.releases.current = await release_of_settings(content(**settings), self.store, now=utc_now())
        self.releases.remember(self.releases.current)
        return self

    @property
    def releasing(self):
        checks = ReleaseChecks(
            rules=self.rules,
            orchestrator=self.nomad,
            config_check=self.config_check,
            site=SITE,
            namespace="opencode",
            region="global",
            now=utc_now,
            upstream_timeout=timedelta(seconds=2),
        )
        return Releasing(store=self.store, releases=self.releases, checks=checks, now=utc_now)

    async def create(self, wish=CHANGED):
        return await self.releasing.create(wish, by=OPERATOR)

    async def refusal(self, wish):
        """Return what stands against *wish*, and see that nothing was stored for it."""
        with pytest.raises(InvalidBody) as refused:
            await self.create(wish)
        assert len((await self.store.find_releases(before=None, limit=10)).items) == 1
        assert self.store.events == []
        return refused.value, {fault.pointer: fault.detail for fault in refused.value.faults}


@pytest.fixture
async def place():
    return await Place().open()


async def test_a_release_is_its_base_with_what_was_named(place):
    made = await place.create(replace(CHANGED, note="calmer"))

    release, base = made.entry.release, place.releases.current
    assert made.is_new
    assert (release.number, release.note, release.created_by) == (2, "calmer", "operator")
    assert release.instructions == "Be brief."
    assert replace(base, instructions="Be brief.", id=release.id) == replace(
        release, number=1, note="", created_by="settings", created_at=base.created_at
    )
    assert not made.entry.is_current


async def test_an_id_follows_from_the_content_and_looks_like_all_ids(place):
    first = (await place.create()).entry.release
    again = await (await Place().open()).create(replace(CHANGED, note="another note"))

    assert again.entry.release.id == first.id
    assert len(first.id) == len("rel_") + 26
    assert set(first.id.removeprefix("rel_")) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    assert first.id != place.releases.current.id


async def test_content_that_is_there_is_neither_checked_nor_stored_again(place):
    await place.create()
    again = await place.create()

    assert (again.is_new, again.checks) == (False, {})
    assert len(place.config.asked) == 1
    assert [event.kind for event in place.store.events] == ["release.created"]


async def test_making_and_using_are_remembered_with_who_did(place):
    made = (await place.create()).entry.release

    used = await place.releasing.use(made.id, by=OPERATOR)

    assert used.is_current
    assert place.releases.current == made
    created, used_event = place.store.events
    assert (created.kind, created.actor, created.data["release"]) == ("release.created", "operator", made.id)
    assert created.data["checks"] == {
        "template": "accepted by Nomad",
        "config": "accepted by OpenCode 1.18.34",
    }
    assert (used_event.kind, used_event.data["release"]) == ("release.used", made.id)


async def test_prompts_of_agents_are_delivered_within_the_managed_configuration(place):
    made = await place.create(
        ReleaseWish(
            managed_config='{"share": "disabled", "agent": {"plan": {"model": "m"}, "build": {"mode": "all"}}}',
            agent_prompts={"plan": "Plan — well.", "review": "Look."},
        )
    )

    managed = made.entry.release.managed
    assert json.loads(managed) == {
        "share": "disabled",
        "agent": {
            "plan": {"model": "m", "prompt": "Plan — well."},
            "build": {"mode": "all"},
            "review": {"prompt": "Look."},
        },
    }
    assert place.config.asked == [("1.18.34", managed)]


async def test_without_prompts_the_configuration_is_delivered_as_it_was_written(place):
    made = await place.create(ReleaseWish(managed_config='{ "share" : "disabled" }\n'))

    assert made.entry.release.managed == '{ "share" : "disabled" }\n'


async def test_a_base_that_is_not_there_is_not_found(place):
    with pytest.raises(ReleaseNotFound):
        await place.create(ReleaseWish(base=ReleaseId("rel_none")))


@pytest.mark.parametrize(
    ("wish", "pointer", "words"),
    [
        (ReleaseWish(template='job "x" {}'), "/template", "does not declare environment_digest, image"),
        (ReleaseWish(managed_config="{"), "/managed_config", "is not JSON"),
        (ReleaseWish(managed_config="[]"), "/managed_config", "is not a JSON object"),
        (
            ReleaseWish(managed_config='{"agent": []}', agent_prompts={"build": "x"}),
            "/managed_config",
            "cannot take a prompt: agent is not a JSON object",
        ),
        (
            ReleaseWish(managed_config='{"agent": {"build": 1}}', agent_prompts={"build": "x"}),
            "/managed_config",
            "cannot take a prompt: agent.build is not a JSON object",
        ),
        (ReleaseWish(opencode_version="1.18.14"), "/opencode_version", "below the safe floor 1.18.15"),
        (ReleaseWish(opencode_version="1.9.99"), "/opencode_version", "below the safe floor 1.18.15"),
        (ReleaseWish(environment={"HOME": "/"}), "/environment/HOME", "does not allow this name"),
        (ReleaseWish(environment={"TZ": "${meta.x}"}), "/environment/TZ", "must not contain ${ or {{"),
        (ReleaseWish(environment={"TZ": "{{ x }}"}), "/environment/TZ", "must not contain ${ or {{"),
        (
            ReleaseWish(resource_classes={"huge": ResourceClass(cpu=1, memory=1, memory_max=1)}),
            "/resource_classes",
            "has no class small",
        ),
    ],
)
async def test_what_could_not_be_used_is_refused_at_its_place_and_nothing_is_stored(
    place, wish, pointer, words
):
    error, faults = await place.refusal(wish)

    assert set(faults) == {pointer}
    assert words in faults[pointer]
    assert error.code == "invalid-body"
    assert place.config.asked == []


async def test_everything_that_is_wrong_is_told_at_once(place):
    _, faults = await place.refusal(
        ReleaseWish(template="", managed_config="[]", opencode_version="1.2.3", environment={"A": "b"})
    )

    assert set(faults) == {"/template", "/managed_config", "/opencode_version", "/environment/A"}


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        (ReleaseWish(instructions="ü" * 30_001), "/instructions"),
        (ReleaseWish(managed_config=json.dumps({"x": "y" * 60_000})), "/managed_config"),
        (
            ReleaseWish(managed_config=json.dumps({"x": "y" * 40_000}), agent_prompts={"a": "z" * 20_000}),
            "/agent_prompts",
        ),
    ],
)
async def test_a_text_that_cannot_be_delivered_is_too_large(place, wish, pointer):
    error, faults = await place.refusal(wish)

    assert isinstance(error, BundleTooLarge)
    assert set(faults) == {pointer}


async def test_a_text_that_just_fits_is_not_too_large(place):
    assert (await place.create(ReleaseWish(instructions="ü" * 30_000))).is_new


async def test_a_name_that_the_base_has_already_may_stay_in_the_environment():
    place = await Place().open(environment={"OPERATORS_OWN": "1"})

    made = await place.create(ReleaseWish(environment={"OPERATORS_OWN": "2", "TZ": "UTC"}))

    assert made.entry.release.environment == {"OPERATORS_OWN": "2", "TZ": "UTC"}


async def test_the_floor_is_an_operators_to_set():
    place = await Place(opencode_floor="1.18.34").open()

    _, faults = await place.refusal(ReleaseWish(opencode_version="1.18.33"))

    assert "below the safe floor 1.18.34 (setting opencode_floor)" in faults["/opencode_version"]


async def test_what_nomad_says_to_the_template_is_told(place, monkeypatch):
    async def refuse(template, variables, deadline):
        raise UpstreamRejected("nomad", "render", "input.hcl:3,1-4:\n  Unsupported block type")

    monkeypatch.setattr(place.nomad, "render", refuse)

    _, faults = await place.refusal(CHANGED)

    assert faults == {
        "/template": "Nomad refuses it (for the resource class large): input.hcl:3,1-4: Unsupported block type"
    }


async def test_the_template_is_rendered_with_every_resource_class(place, monkeypatch):
    rendered, render = [], place.nomad.render

    async def watch(template, variables, deadline):
        rendered.append((variables["cpu"], variables["job_id"], variables["opencode_path"]))
        return await render(template, variables, deadline)

    monkeypatch.setattr(place.nomad, "render", watch)
    await place.create()

    assert [cpu for cpu, _, _ in rendered] == [400, 100]


async def test_a_job_that_parses_and_that_nomad_would_not_take_is_refused_with_its_words(place):
    words = "1 error occurred:\n\t* Task group server validation failed: Missing tasks for group"
    place.nomad.faults.fail_next("plan_placement", UpstreamRejected("nomad", "plan placement", words))

    _, faults = await place.refusal(CHANGED)

    assert faults == {
        "/template": "Nomad refuses it (for the resource class large): 1 error occurred: * Task group server validation "
        "failed: Missing tasks for group"
    }


async def test_that_there_is_no_room_for_an_example_is_nothing_against_a_release(place):
    place.nomad.refuse_placement("no node has the memory")

    assert (await place.create()).is_new


@pytest.mark.parametrize("call", ["render", "plan_placement"])
async def test_a_nomad_that_cannot_be_asked_is_no_verdict_and_nothing_is_stored(place, call):
    place.nomad.faults.fail_next(call, UpstreamUnavailable("nomad", call))

    with pytest.raises(UpstreamUnavailable):
        await place.create()

    assert len((await place.store.find_releases(before=None, limit=10)).items) == 1
    assert (await place.create()).is_new


async def test_what_opencode_says_to_the_configuration_is_told(place):
    message = 'OpenCode 1.18.34 refuses it; correct share: Expected "manual", got "nonsense"'
    place.config.verdict = ConfigVerdict(outcome=Outcome.REFUSED, message=message)

    _, faults = await place.refusal(CHANGED)

    assert faults == {"/managed_config": message}


async def test_a_version_that_there_is_no_program_of_is_refused(place):
    place.config.verdict = ConfigVerdict(
        outcome=Outcome.NO_SUCH_PROGRAM, message="/opt/1.18.99/opencode is no OpenCode program"
    )

    _, faults = await place.refusal(ReleaseWish(opencode_version="1.18.99"))

    assert "/opt/1.18.99/opencode" in faults["/opencode_version"]


async def test_where_nothing_can_check_a_configuration_it_is_not_called_checked(place):
    place.config_check = NoConfigCheck()

    made = await place.create()

    assert made.checks["config"].startswith("not checked: ")


async def test_a_check_that_breaks_is_no_verdict_and_nothing_is_stored(place):
    place.config.fails_with = UpstreamUnavailable("opencode", "check")

    with pytest.raises(UpstreamUnavailable):
        await place.create()

    assert len((await place.store.find_releases(before=None, limit=10)).items) == 1


async def test_beside_a_rollout_the_target_stays(place):
    made = (await place.create()).entry.release
    before = place.releases.current
    await place.store.create_rollout(a_stored_rollout(), [])

    with pytest.raises(RolloutActive):
        await place.releasing.use(made.id, by=OPERATOR)

    assert place.releases.current == before


async def test_what_an_operator_uses_outlives_a_restart_and_new_settings_take_its_place(place):
    first = place.releases.current
    made = (await place.create()).entry.release
    await place.releasing.use(made.id, by=OPERATOR)

    async def restart(**settings):
        return await release_of_settings(content(**settings), place.store, now=utc_now())

    assert await restart() == made
    changed = await restart(instructions="Other settings.")
    assert changed.instructions == "Other settings."
    assert await restart() == first


async def test_settings_that_change_while_a_rollout_is_under_way_wait_for_a_later_start(place):
    first = place.releases.current
    await place.store.create_rollout(a_stored_rollout(), [])
    assert await release_of_settings(content(instructions="Other."), place.store, now=utc_now()) == first

    place.store.rollouts.clear()
    later = await release_of_settings(content(instructions="Other."), place.store, now=utc_now())

    assert later.instructions == "Other."


async def test_another_replica_takes_in_what_the_target_is(place):
    other = Releases(place.store)
    await other.refresh()
    made = (await place.create()).entry.release
    await place.releasing.use(made.id, by=OPERATOR)

    await other.refresh()

    assert other.current == made
