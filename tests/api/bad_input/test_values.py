"""Values and fields of a body that must not be: refused where they stand, and nothing applied."""

import json

import pytest

from api.bad_input.asking import JSON, pointers


@pytest.mark.parametrize("payload", ["${attr.kernel.name}", "{{ key `x` }}", "a${", "{{", 'x"${b}', "${{"])
async def test_b3_what_the_orchestrator_would_interpolate_is_refused_in_every_value(world, payload):
    answer = await world.call(
        "PUT",
        "/v1/stacks/ada",
        json={
            "group": payload,
            "resources": payload,
            "labels": {"a": payload, payload: "a"},
            "environment": {"TZ": payload, payload: "a"},
        },
    )

    assert answer.status == 422
    assert {"/group", "/resources", "/labels/a", "/environment/TZ"} <= set(pointers(answer))
    assert payload not in json.dumps([fault["detail"] for fault in answer.json["errors"] if payload != "{{"])
    assert world.provisioning.calls == []


async def test_b3_quotes_backticks_and_shell_are_carried_as_they_are(world):
    value = "\"'`$(reboot); $HOME \\ | & <x> %7B { } #"

    await world.call("PUT", "/v1/stacks/ada", json={"labels": {"a": value}, "environment": {"TZ": value}})

    intent = world.provisioning.views["ada"].stack.intent
    assert (intent.labels, intent.environment) == ({"a": value}, {"TZ": value})


@pytest.mark.parametrize(
    "field", ["image", "opencode_version", "template", "driver", "url", "path", "config"]
)
async def test_b4_a_caller_cannot_name_an_image_or_any_place_to_fetch_from(world, field):
    for value in ("evil/image:latest", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data"):
        answer = await world.call("PUT", "/v1/stacks/ada", json={field: value})

        assert (answer.status, pointers(answer)) == (422, [f"/{field}"])
        assert value not in answer.text
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "value", ["0", "-1", "1e308", "9223372036854775808", "null", '""', "true", "[]", "{}", '"a b"', '"Small"']
)
async def test_b5_resources_are_the_name_of_a_class_and_nothing_else(world, value):
    answer = await world.call("PUT", "/v1/stacks/ada", data=f'{{"resources": {value}}}', headers=JSON)

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert pointers(answer) == ["/resources"]
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    "field",
    [
        "owner", "role", "generation", "status", "user_id", "job_id", "namespace", "region", "desired", "phase",
        "release", "wanted_release", "pinned", "held", "password", "Group", "a/b~c", "",
    ],
)  # fmt: skip
async def test_b8_an_unknown_field_is_refused_and_never_applied(world, field):
    answer = await world.call("PUT", "/v1/stacks/ada", json={"group": "a", field: "x"})

    assert (answer.status, answer.code) == (422, "invalid-body")
    assert pointers(answer) == ["/" + field.replace("~", "~0").replace("/", "~1")]
    assert world.provisioning.views == {}


@pytest.mark.parametrize("call", ["start", "stop", "recreate", "rotate-password", "recover", "credentials"])
async def test_b8_a_call_that_takes_no_content_refuses_content(world, call):
    world.provisioning.given("ada")

    answer = await world.call("POST", f"/v1/stacks/ada/{call}", json={"force": True})

    assert (answer.status, pointers(answer)) == (422, ["/force"])
    assert world.provisioning.calls == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"labels": {"A": "x"}}, "/labels/A"),
        ({"labels": {"1a": "x"}}, "/labels/1a"),
        ({"labels": {"a" * 33: "x"}}, "/labels/" + "a" * 33),
        ({"labels": {"a": "x" * 129}}, "/labels/a"),
        ({"labels": {"a": "tab\t"}}, "/labels/a"),
        ({"labels": {"a": "\u202e"}}, "/labels/a"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"labels": {"a": None}}, "/labels/a"),
        ({"labels": {f"a{i}": "x" for i in range(17)}}, "/labels"),
        ({"labels": []}, "/labels"),
        ({"labels": None}, "/labels"),
        ({"environment": {"PATH": "/evil"}}, "/environment/PATH"),
        ({"environment": {"LD_PRELOAD": "x"}}, "/environment/LD_PRELOAD"),
        ({"environment": {"tz": "x"}}, "/environment/tz"),
        ({"environment": {"TZ": "a\0b"}}, "/environment/TZ"),
        ({"environment": {"TZ": "x" * 4097}}, "/environment/TZ"),
        ({"environment": {"TZ": True}}, "/environment/TZ"),
        ({"group": "Default"}, "/group"),
        ({"group": "a" * 64}, "/group"),
        ({"group": "a\n"}, "/group"),
        ({"group": 7}, "/group"),
        ({"group": None}, "/group"),
    ],
)
async def test_b8_each_wrong_value_is_pointed_at(world, body, expected):
    answer = await world.call("PUT", "/v1/stacks/ada", json=body)

    assert answer.status == 422
    assert expected in pointers(answer)
    assert world.provisioning.calls == []
