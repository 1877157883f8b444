"""What a person sees: the real program on a real pseudo-terminal."""

import json
import os
import re
import signal
import subprocess
import sys

from fakes.rollout_answers import (
    PLAN,
    ROLLOUT,
    plan,
    planned_stack,
    release,
    rollout,
    rollout_detail,
    whole_release,
)
from fakes.service_answers import (
    SINCE,
    address,
    event,
    items,
    migration,
    operation,
    order,
    phases,
    stack,
    waiting_stack,
)
from opencode_lifecycle.cli.exit_codes import ExitCode

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
GET = "GET /v1/stacks/ada"
RELEASE = "rel_68RV9X4KF5ZPEK5JSMNCPM2409"
ROLLOUT_CALL = f"GET /v1/rollouts/{ROLLOUT}"
DRAINING = stack(
    migration_state="draining",
    migration=migration("draining", order=order(id=ROLLOUT, deadline="2026-01-02T04:04:05Z")),
)
OVER = {"finished_at": SINCE, "counts": {"migrated": 10}}


def test_states_are_coloured_on_a_terminal(service, terminal):
    service.answers(GET, stack())

    assert COLOUR.search(terminal("show", "ada").text)


def test_no_color_is_respected(service, terminal):
    service.answers(GET, stack())

    shown = terminal("show", "ada", environment={"NO_COLOR": "1"})

    assert "running" in shown.text
    assert not COLOUR.search(shown.text)


def test_the_phases_of_an_ensure_are_shown_as_they_come(service, terminal):
    service.answers("PUT /v1/stacks/ada", waiting_stack(), status=202, Location="/v1/operations/op_1")
    for _ in range(3):
        service.answers("GET /v1/operations/op_1", operation("running", phases=phases("pending", "starting")))
    service.answers("GET /v1/operations/op_1", operation(phases=phases("pending", "starting", "running")))
    service.answers(GET, stack())

    shown = terminal("ensure", "ada", environment={"NO_COLOR": "1"})

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.text)
    assert shown.exit_code == ExitCode.OK
    assert "pending 1.0 s → starting" in text
    assert text.index("pending 1.0 s → starting") < text.index("http://10.0.0.7:21000")


def test_json_comes_alone_on_a_terminal_too(service, terminal):
    service.answers("PUT /v1/stacks/ada", waiting_stack(), status=202, Location="/v1/operations/op_1")
    service.answers("GET /v1/operations/op_1", operation("running", phases=phases("pending")))
    service.answers("GET /v1/operations/op_1", operation())
    service.answers(GET, stack())

    assert json.loads(terminal("ensure", "ada", "--json").text) == stack()


def test_commands_to_copy_are_not_folded(service, terminal):
    service.answers(GET, stack())

    shown = terminal("show", "ada", environment={"COLUMNS": "40"})

    assert "vault kv metadata get -mount=kv opencode/oc-ada-abcdefghijklmnopqrst\r\n" in shown.text


def test_a_log_cannot_steer_the_terminal(service, terminal):
    service.answers("GET /v1/stacks/ada/logs", "\x1b]0;owned\x07grün\n".encode())

    shown = terminal("logs", "ada")

    assert "\x1b]" not in shown.text
    assert "grün" in shown.text


def test_a_deletion_asks_and_takes_no_for_an_answer(service, terminal):
    shown = terminal("delete", "ada", "--workspace", "delete", answer="n\n")

    assert shown.exit_code == ExitCode.FAILED
    assert "DELETE its workspace with all data" in shown.text
    assert service.asked == []


def test_a_deletion_is_done_when_the_answer_is_yes(service, terminal):
    service.answers("DELETE /v1/stacks/ada", operation(kind="delete", receipt={"job": "purged"}), status=202)

    shown = terminal("delete", "ada", answer="y\n")

    assert shown.exit_code == ExitCode.OK
    assert "purged" in shown.text


def test_the_exit_code_reaches_the_shell(service, terminal):
    service.refuses("GET /v1/stacks/ada/address", 409, "runtime-not-ready")

    assert terminal("address", "ada").exit_code == ExitCode.NOT_IN_TIME


def test_an_address_is_shown_with_how_fresh_it_is(service, terminal):
    service.answers("GET /v1/stacks/ada/address", address())

    assert "proven 2026-01-02T03:04:05Z" in terminal("address", "ada").text


def test_who_interrupts_the_watching_is_told_that_the_request_goes_on(service, token_file):
    service.answers("PUT /v1/stacks/ada", waiting_stack(), status=202, Location="/v1/operations/op_1")
    service.answers("GET /v1/operations/op_1", operation("running", phases=phases("pending")))
    with subprocess.Popen(
        [sys.executable, "-m", "opencode_lifecycle", "ensure", "ada"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "OPENCODE_LIFECYCLE_URL": service.url,
            "OPENCODE_LIFECYCLE_TOKEN_FILE": str(token_file),
        },
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"ada: pending\n"
        process.send_signal(signal.SIGINT)
        results, notes = process.communicate(timeout=20)
        said = notes.decode()

    assert process.returncode == ExitCode.FAILED
    assert results == b""
    assert said.endswith("The request stays accepted. See: opencode-lifecycle operation op_1\n")


def bare(text: str) -> str:
    """Return *text* as it is read, without what moves the cursor and colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_the_progress_of_a_rollout_is_shown_live(service, terminal):
    for _ in range(3):
        service.answers(ROLLOUT_CALL, rollout_detail())
    service.answers("GET /v1/stacks", items(DRAINING))
    service.answers(ROLLOUT_CALL, rollout_detail("succeeded", **OVER))

    shown = terminal("rollout", "watch", ROLLOUT)

    text = bare(shown.text)
    assert shown.exit_code == ExitCode.OK
    assert "3 of 10 done 2 in flight, 3 migrated, 5 waiting" in " ".join(text.split())
    assert re.search(r"WAVE +STACKS +IN FLIGHT +MIGRATED +WAITING", text)
    assert "waits for the agent of ada, until 2026-01-02T04:04:05Z" in text
    assert text.index("waits for 2 stacks in flight") < text.index("done                 10 of 10")


def test_the_progress_of_a_paused_rollout_says_what_a_person_can_do(service, terminal):
    service.answers(ROLLOUT_CALL, rollout_detail("paused", reason="failures", counts={"failed": 2}))
    service.answers(ROLLOUT_CALL, rollout_detail("aborted", **OVER))

    text = bare(terminal("rollout", "watch", ROLLOUT).text)

    assert "more stacks failed than the failure budget allows" in text
    assert f"rollout resume, abort or rollback {ROLLOUT}" in " ".join(text.split())


def test_why_a_rollout_goes_back_is_shown_while_it_does(service, terminal):
    message = "1 stack failed: ada (it did not answer the prompt)"
    back = {"reason": "canary_failed", "message": message, "goes_back": True}
    service.answers("GET /v1/stacks", items())
    service.answers(ROLLOUT_CALL, rollout_detail("rolling_back", **back))
    service.answers(ROLLOUT_CALL, rollout_detail("failed", **back, **OVER))

    text = bare(terminal("rollout", "watch", ROLLOUT).text)

    assert "rolling back" in text
    assert f"since a canary did not pass: {message}" in " ".join(text.split())


def test_progress_that_came_from_outside_cannot_steer_the_terminal(service, terminal):
    service.answers(ROLLOUT_CALL, rollout_detail(message="\x1b]0;owned\x07"))
    service.answers("GET /v1/stacks", items({**DRAINING, "user_id": "a\x1b]0;owned\x07"}))
    service.answers(ROLLOUT_CALL, rollout_detail("succeeded", **OVER))

    assert "\x1b]" not in terminal("rollout", "watch", ROLLOUT).text


def test_a_rollout_watched_as_json_shows_nothing_else_on_a_terminal_too(service, terminal):
    service.answers(ROLLOUT_CALL, rollout_detail())
    service.answers("GET /v1/stacks", items())
    service.answers(ROLLOUT_CALL, rollout_detail("succeeded", **OVER))

    shown = terminal("rollout", "watch", ROLLOUT, "--json")

    assert json.loads(shown.text) == rollout_detail("succeeded", **OVER)


def test_a_plan_is_coloured_and_its_command_is_not_folded(service, terminal):
    service.answers("POST /v1/rollouts/plan", plan(planned_stack(busy="busy")))

    shown = terminal("rollout", "plan", environment={"COLUMNS": "40"})

    assert COLOUR.search(shown.text)
    assert shown.exit_code == ExitCode.FAILED
    assert f"opencode-lifecycle rollout start --plan {PLAN}" in bare(shown.text)
    assert "1 stack selected: 1 to move (1 restart)," in " ".join(bare(shown.text).split())
    assert max(len(line) for line in bare(shown.text).splitlines() if "rollout start" not in line) <= 40


def test_an_explanation_fits_a_screen_of_eighty_columns(service, terminal):
    service.answers(GET, stack(migration_state="draining", migration=migration("draining", order=order())))
    service.answers("GET /v1/operations/op_1", operation())
    service.answers("GET /v1/stacks/ada/events", items(event()))
    service.answers("GET /v1/conditions", items())
    service.answers("GET /v1/rollouts/ro_1", rollout(id="ro_1"))

    shown = terminal("explain", "ada", environment={"COLUMNS": "80"})

    sentences = bare(shown.text).partition("In Nomad's own words")[0]
    assert "waits for" in sentences
    assert max(len(line.rstrip()) for line in sentences.splitlines()) <= 80


def test_who_interrupts_the_watching_of_a_rollout_is_told_that_it_goes_on(service, token_file):
    service.answers(ROLLOUT_CALL, rollout_detail())
    service.answers("GET /v1/stacks", items())
    with subprocess.Popen(
        [sys.executable, "-m", "opencode_lifecycle", "rollout", "watch", ROLLOUT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "OPENCODE_LIFECYCLE_URL": service.url,
            "OPENCODE_LIFECYCLE_TOKEN_FILE": str(token_file),
        },
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"{ROLLOUT}: running".encode())
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=20)

    assert process.returncode == ExitCode.FAILED
    assert notes.decode().endswith(f"The rollout goes on. See: opencode-lifecycle rollout show {ROLLOUT}\n")


def test_words_and_states_of_a_list_are_never_folded(service, terminal):
    service.answers("GET /v1/stacks", items(stack(release=RELEASE, wanted_release=RELEASE)))

    shown = terminal("list", environment={"NO_COLOR": "1", "COLUMNS": "90"})

    row = next(line for line in shown.text.splitlines() if line.strip().startswith("ada "))
    assert {"running", "healthy", "current"} <= set(row.split())


def test_a_list_leaves_out_and_names_what_a_narrow_terminal_has_no_room_for(service, terminal):
    service.answers("GET /v1/stacks", items(stack()))
    service.answers("GET /v1/stacks", items(stack()))

    narrow = terminal("list", environment={"COLUMNS": "80"}).text
    wide = terminal("list", environment={"COLUMNS": "200"}).text

    assert stack()["job_id"] not in narrow
    assert "Left out, since the terminal is too narrow: JOB" in narrow
    assert stack()["job_id"] in wide
    assert "Left out" not in wide


def test_a_prompt_after_a_part_of_a_release_begins_on_a_line_of_its_own(service, terminal):
    service.answers("GET /v1/releases", items(release()))
    service.answers(f"GET /v1/releases/{release()['id']}", whole_release())

    assert terminal("release", "show", "--part", "template").text == 'job "x" {}\r\n'
