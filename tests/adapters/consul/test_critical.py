"""How the critical checks are followed, whatever Consul does with its index."""

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, reply
from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.model.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamUnavailable,
)
from scripted_consul import CLAIM, CRITICAL, Catalogue, asked, check, follow


def critical(index: object, *checks: object) -> bytes:
    return reply(200, list(checks), X_Consul_Index=str(index))


def in_turn(*answers: Reply) -> Catalogue:
    """Answer questions for critical checks so, one after another; the last one for ever."""
    left = list(answers)

    class InTurn(Catalogue):
        def __call__(self, request: SeenRequest) -> Reply:
            if request.path.startswith(CRITICAL):
                return left.pop(0) if len(left) > 1 else left[0]
            return super().__call__(request)

    return InTurn()


def indexes(consul: HostileServer) -> list[str | None]:
    """Return the index that each question waited for a change after."""
    return [parse_qs(urlsplit(path).query).get("index", [None])[0] for _, path in asked(consul, CRITICAL)]


async def test_only_changes_are_told_after_the_first_answer(consul, catalog):
    consul.script = in_turn(
        critical(5, check()),
        critical(6, check()),
        critical(7, check(), check(ServiceName="postgres", ServiceID="pg")),
        critical(8),
        critical(9),
        critical(10, check()),
    )

    assert await follow(catalog, 3) == [{CLAIM}, frozenset(), {CLAIM}]
    assert indexes(consul) == [None, "5", "6", "7", "8", "9"]


async def test_that_nothing_is_critical_is_told_at_first(consul, catalog):
    consul.script = in_turn(critical(5))

    assert await follow(catalog, 1) == [frozenset()]


async def test_what_did_not_change_is_told_again_after_each_wait(consul, token_file, pauses):
    catalog = ConsulServiceCatalog(address=consul.url, token_file=token_file, pause=pauses, wait=timedelta(0))
    consul.script = in_turn(critical(5, check()))

    assert await follow(catalog, 3) == [{CLAIM}] * 3
    await catalog.close()


async def test_a_question_waits_for_minutes(consul, catalog):
    consul.script = in_turn(critical(5))

    await follow(catalog, 1)

    query = parse_qs(urlsplit(consul.requests[0].path).query)
    assert query == {"filter": ['ServiceName matches "^oc-"'], "wait": ["300s"]}


async def test_an_index_that_goes_back_begins_anew(consul, catalog):
    consul.script = in_turn(critical(9), critical(4, check()), critical(5), critical(6, check()))

    await follow(catalog, 4)

    assert indexes(consul) == [None, "9", None, "5"]


@pytest.mark.parametrize("index", ["0", None])
async def test_an_index_of_zero_is_never_waited_for(consul, catalog, index):
    headers = {} if index is None else {"X_Consul_Index": index}
    consul.script = in_turn(reply(200, [], **headers), critical(3, check()))

    await follow(catalog, 2)

    assert indexes(consul) == [None, "1"]


@pytest.mark.parametrize("index", ["x", "-", "1.5", "9" * 5000], ids=["x", "-", "1.5", "endless"])
async def test_an_index_that_is_none_is_nonsense(consul, catalog, index):
    consul.script = in_turn(critical(index))

    with pytest.raises(UpstreamNonsense):
        await follow(catalog, 1)


async def test_an_index_that_moves_all_the_time_is_not_run_after(consul, catalog, pauses):
    consul.script = in_turn(*(critical(number) for number in range(1, 9)), critical(9, check()))

    await follow(catalog, 2)

    assert pauses.asked == [0.5] * 8


async def test_checks_of_nodes_and_of_others_are_no_claims(consul, catalog):
    consul.script = in_turn(
        critical(
            5,
            check(ServiceName="", ServiceID=""),
            check(ServiceName="postgres"),
            check(ServiceID="zombie"),
            check(),
            check(),
        )
    )

    assert await follow(catalog, 1) == [{CLAIM}]


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, {}),
        reply(200, None),
        reply(200, [7]),
        reply(200, [{}]),
        reply(200, [check(ServiceName=None)]),
        reply(200, [check(ServiceID=7)]),
        reply(200, b"[{"),
        reply(200, b"<html>", content_type="text/html"),
        Misbehaviour.ENDLESS,
    ],
    ids=str,
)
async def test_what_is_no_list_of_checks_is_not_taken_for_health(consul, catalog, answer):
    consul.script = in_turn(critical(5, check()), answer)

    with pytest.raises(UpstreamNonsense):
        await follow(catalog, 2)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(500, b"no leader"), UpstreamUnavailable),
        (reply(403, b"ACL not found"), UpstreamDenied),
        (Misbehaviour.RESET, UpstreamUnavailable),
        (Misbehaviour.CLOSE, UpstreamUnavailable),
        (Misbehaviour.CUT, UpstreamUnavailable),
    ],
    ids=str,
)
async def test_a_connection_that_ends_ends_the_following(consul, catalog, answer, expected):
    consul.script = in_turn(critical(5, check()), answer)

    with pytest.raises(UpstreamError) as caught:
        await follow(catalog, 2)

    assert type(caught.value) is expected


@pytest.mark.servers
async def test_a_real_token_without_a_right_to_services_follows_nothing(real_consul, tmp_path):
    (tmp_path / "token").write_text(await real_consul.make_token('node_prefix "" { policy = "read" }'))
    catalog = ConsulServiceCatalog(address=real_consul.url, token_file=tmp_path / "token")

    with pytest.raises(UpstreamDenied):
        await follow(catalog, 1)
    await catalog.close()
