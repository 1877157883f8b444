"""The doctor: what it checks, the code of each failure, and what it says to do."""

import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from fakes.lifecycle_service import TOKEN
from fakes.rollout_answers import rollout
from fakes.service_answers import condition, items, orphan, readiness, stack, watch
from opencode_lifecycle.cli import advice
from opencode_lifecycle.cli.diagnosis import what_next
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.verdict import doubtful, fine, wrong
from opencode_lifecycle.model.condition import ConditionKind
from world import World

NOBODY = "GET /v1/stacks/doctor-asks-for-nobody/address"


@pytest.fixture(autouse=True)
def programs(tmp_path, monkeypatch):
    """Put programs of good versions on PATH, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(name, says):
        file = folder / name
        file.write_text(f"#!/bin/sh\necho '{says}'\n")
        file.chmod(0o700)
        return file

    install("nomad", "Nomad v1.11.3")
    install("consul", "Consul v1.22.3")
    install("vault", "Vault v1.21.2 (0123456789abcdef)")
    monkeypatch.setenv("PATH", str(folder))
    return install


@pytest.fixture
def ready(service):
    """A service that is ready and takes the token for an operator's."""
    service.answers("GET /readyz", readiness())
    well(service)
    return service


def well(service):
    """Let the service say of the whole that nothing is wrong with it, to an operator."""
    service.answers("GET /v1/stacks", items())
    service.answers("GET /v1/tokens", items())
    service.refuses(NOBODY, 404, "stack-not-found")
    service.answers("GET /v1/conditions", items())
    service.answers("GET /v1/orphans", items())
    service.answers("GET /v1/rollouts", items())


@pytest.fixture
def examine(run):
    """Run the doctor and return its exit code and its findings by check."""

    def checked(*arguments):
        result = run("doctor", "--json", *arguments)
        report = json.loads(result.stdout)
        assert report["ok"] is (result.exit_code == ExitCode.OK)
        return result.exit_code, {check["check"]: check for check in report["checks"]}

    return checked


@pytest.fixture
def told(run):
    """Run the doctor for scripts and return all it says."""
    return lambda: json.loads(run("doctor", "--json").stdout)


def test_when_all_is_well_the_doctor_says_so(ready, examine):
    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert {check["level"] for check in checks.values()} == {"ok"}
    assert {
        "service",
        "service: nomad",
        "service: vault",
        "token",
        "clock",
        "nomad",
        "consul",
        "vault",
    } <= set(checks)


def test_people_get_a_table_and_never_the_token(ready, run):
    result = run("doctor")

    lines = result.stdout.splitlines()
    assert lines[0].split() == ["CHECK", "RESULT", "DETAIL", "WHAT", "TO", "DO"]
    assert lines[-1].strip() == "Nothing is wrong, and there is nothing to do."
    assert TOKEN not in result.output


@pytest.mark.parametrize(
    ("statuses", "role"),
    [
        ((200, 200, 404), "operator"),
        ((200, 403, 404), "backend"),
        ((200, 403, 403), "auditor"),
        ((403, 403, 404), "user"),
    ],
)
def test_the_role_of_the_token_is_told(service, examine, statuses, role):
    service.answers("GET /readyz", readiness())
    for call, status in zip(("GET /v1/stacks", "GET /v1/tokens", NOBODY), statuses, strict=True):
        if status == 200:
            service.answers(call, items())
        else:
            service.refuses(call, status, "forbidden" if status == 403 else "stack-not-found")

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["token"]["detail"] == f"valid, role {role}"


def test_a_token_that_is_not_known_is_a_failure(ready, examine, tmp_path):
    other = tmp_path / "other"
    other.write_text("olt_unknown")

    exit_code, checks = examine("--token-file", str(other))

    assert exit_code == ExitCode.FAILED
    assert checks["token"]["code"] == "token-refused"


def test_no_token_is_a_failure(ready, cli):
    result = cli("--url", ready.url, "doctor", "--json")

    [check] = [check for check in json.loads(result.stdout)["checks"] if check["level"] == "failed"]
    assert check["code"] == "token-missing"
    assert "--token-file" in check["advice"]


def test_a_token_file_that_cannot_be_read_is_a_failure(ready, examine, tmp_path):
    assert examine("--token-file", str(tmp_path / "gone"))[1]["token"]["code"] == "token-unreadable"


def test_a_token_file_that_others_can_read_is_a_warning(ready, examine, token_file):
    token_file.chmod(0o644)

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["token file"]["code"] == "token-file-open"


def test_a_service_that_is_not_there_is_a_failure(examine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    exit_code, checks = examine("--url", f"http://127.0.0.1:{port}")

    assert exit_code == ExitCode.FAILED
    assert checks["service"]["code"] == "service-unreachable"
    assert "opencode-lifecycle serve" in checks["service"]["advice"]


def test_a_dependency_that_is_away_is_named(service, examine):
    service.answers("GET /readyz", readiness("vault"), status=503)
    well(service)

    exit_code, checks = examine()

    assert exit_code == ExitCode.FAILED
    assert (checks["service: vault"]["code"], checks["service: vault"]["detail"]) == (
        "dependency-not-ready",
        "sealed",
    )
    assert checks["service: nomad"]["level"] == "ok"


def test_a_condition_that_stands_is_a_failure_that_says_how_to_confirm_it(service, run):
    service.answers("GET /v1/conditions", items(condition()))
    service.answers("GET /readyz", readiness())
    well(service)

    result = run("doctor", "--json")

    report = json.loads(result.stdout)
    [check] = [check for check in report["checks"] if check["level"] == "failed"]
    assert result.exit_code == ExitCode.FAILED
    assert (check["check"], check["code"]) == ("condition: mass_disappearance", "condition-standing")
    assert "7 of 9 stacks that should run are not in Nomad's listing." in check["detail"]
    assert f"`opencode-lifecycle conditions confirm {condition()['id']}`" in check["advice"]
    assert report["conditions"] == [condition()]
    assert report["next"].startswith("1 check failed. Begin with condition: mass_disappearance: compare with")


def test_a_condition_that_was_confirmed_is_only_worth_a_look(service, told):
    service.answers(
        "GET /v1/conditions", items(condition(status="confirmed", freezes=False, confirmed_by="root"))
    )
    service.answers("GET /readyz", readiness())
    well(service)

    report = told()

    assert report["ok"] is True
    assert report["next"] == "Nothing is wrong, 1 is worth a look."


def test_a_condition_comes_before_what_the_service_cannot_do_because_of_it(service, told):
    answer = readiness()
    answer["dependencies"].append(
        {"name": "comparison", "ok": False, "detail": "not every stack was compared", "age_seconds": None}
    )
    service.answers("GET /readyz", answer, status=503)
    service.answers("GET /v1/conditions", items(condition()))
    well(service)

    failed = [check["check"] for check in told()["checks"] if check["level"] == "failed"]

    assert failed == ["condition: mass_disappearance", "service: comparison"]


@pytest.mark.parametrize(("detail", "level"), [("held back by mass_disappearance", "failed"), ("ok", "ok")])
def test_a_token_that_may_not_see_conditions_is_told_whether_work_is_held_back(
    service, examine, detail, level
):
    answer = readiness()
    answer["dependencies"].append({"name": "conditions", "ok": True, "detail": detail, "age_seconds": None})
    service.answers("GET /readyz", answer)
    service.refuses("GET /v1/conditions", 403, "forbidden")
    well(service)

    check = examine()[1]["conditions"]

    assert check["level"] == level
    assert (detail in check["detail"]) is (level == "failed")


def test_a_watch_that_is_too_old_is_a_failure_that_names_it(service, told):
    answer = readiness()
    answer["watches"] = [
        watch("nomad_listing", ok=False, age_seconds=125.2),
        watch("orphans", ok=False, age_seconds=None),
        watch("probes"),
    ]
    service.answers("GET /readyz", answer)
    well(service)

    report = told()

    checks = {check["check"]: check for check in report["checks"] if check["check"].startswith("watch: ")}
    assert checks["watch: nomad_listing"]["detail"] == "too old: 2 m 5 s old; at most 30 s"
    assert checks["watch: orphans"]["detail"] == "too old: nothing yet; within 30 s of the start"
    assert {name: check["code"] for name, check in checks.items()} == {
        "watch: nomad_listing": "watch-too-old",
        "watch: orphans": "watch-too-old",
        "watch: probes": "",
    }
    assert "its token may list jobs" in checks["watch: nomad_listing"]["advice"]
    assert report["watches"] == answer["watches"]


def test_orphans_that_wait_for_a_person_are_shown_and_the_others_counted(service, run):
    waiting = orphan(kind="volume", reference="vol-1")
    for _ in range(2):
        service.answers("GET /v1/orphans", items(waiting, orphan(id="orp_other", job_id="oc-bob")))
    service.answers("GET /readyz", readiness())
    well(service)

    shown = run("doctor").stdout
    report = json.loads(run("doctor", "--json").stdout)

    assert "1 volume without a stack waits for a person; 1 other seen to by the service" in shown
    assert "Orphans that wait for a person" in shown
    assert waiting["id"] in shown
    assert "orp_other" not in shown
    assert (report["ok"], report["orphans"]) == (True, [waiting])
    assert (
        "Begin with orphans: see `opencode-lifecycle orphans list`; then `orphans adopt ID`" in report["next"]
    )


def test_orphans_of_nobody_are_not_advised_to_be_adopted(service, examine):
    service.answers("GET /v1/orphans", items(orphan(proven=False)))
    service.answers("GET /readyz", readiness())
    well(service)

    assert "in their own system" in examine()[1]["orphans"]["advice"]


def test_an_auditor_is_told_that_orphans_are_not_looked_at(service, examine):
    service.refuses("GET /v1/orphans", 403, "forbidden")
    service.answers("GET /readyz", readiness())
    well(service)

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["orphans"]["detail"] == "not looked at: only an operator may"


def test_stacks_that_need_a_person_are_named(service, examine):
    service.answers("GET /v1/stacks", items())
    service.answers("GET /v1/stacks", items(stack("ada", phase="failed", reason="job_rejected")))
    service.answers("GET /v1/stacks", items(stack("bob", phase="starting", reason="no_capacity")))
    service.answers("GET /readyz", readiness())
    well(service)

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["stacks"]["detail"] == "not as they should be: ada (job_rejected), bob (no_capacity)"
    assert checks["stacks"]["advice"] == "`opencode-lifecycle show ada` says what to do"
    asked = [call.query for call in service.asked if call.path == "/v1/stacks"]
    assert asked[1]["phase"] == "failed"
    assert {query["reason"] for query in asked if "reason" in query} == {
        "no_capacity",
        "secret_missing",
        "crash_loop",
        "out_of_memory",
        "disk_full",
        "contested",
        "not_ended",
        "node_draining",
    }


def test_a_stack_that_waits_for_its_node_waits_for_nobody_to_decide_about_its_migration(service, examine):
    service.answers("GET /readyz", readiness())
    well(service)
    held = stack(phase="stopped", migration_state="held", reason="node_draining")
    service.now_answers("GET /v1/stacks", items(held))

    _, checks = examine()

    assert checks["migrations"]["detail"] == "none waits for a person"


@pytest.mark.parametrize("state", ["failed", "held"])
def test_changes_that_were_refused_or_are_held_are_named(service, examine, state):
    refused = stack(migration_state=state)
    service.answers("GET /readyz", readiness())
    well(service)
    service.now_answers("GET /v1/stacks", items(refused))

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["migrations"]["code"] == "migrations-wait"
    assert "explain ada" in checks["migrations"]["advice"]


def test_a_rollout_that_is_paused_is_worth_a_look(service, examine):
    service.answers(
        "GET /v1/rollouts",
        items(rollout("paused", reason="failures", message="3 stacks failed: ada, bob, eve")),
    )
    service.answers("GET /readyz", readiness())
    well(service)

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert checks["rollout"]["code"] == "rollout-paused"
    assert "3 stacks failed: ada, bob, eve" in checks["rollout"]["detail"]
    assert "rollout resume" in checks["rollout"]["advice"]


def test_a_rollout_that_runs_is_told_and_nothing_to_worry_about(service, examine):
    service.answers("GET /v1/rollouts", items(rollout()))
    service.answers("GET /readyz", readiness())
    well(service)

    _, checks = examine()

    assert checks["rollout"]["level"] == "ok"
    assert "running, wave 1 of 2: 2 in flight" in checks["rollout"]["detail"]


def test_a_rollout_that_the_token_may_not_see_is_not_looked_at(service, examine):
    service.refuses("GET /v1/rollouts", 403, "forbidden")
    service.answers("GET /readyz", readiness())
    well(service)

    _, checks = examine()

    assert (checks["rollout"]["level"], checks["rollout"]["detail"]) == (
        "ok",
        "not looked at: only an operator or auditor may",
    )


def test_what_is_next_counts_what_failed_and_what_is_worth_a_look():
    verdicts = [
        fine("a", "ok"),
        doubtful("b", "c", "d", "look at b"),
        wrong("e", "f", "g", "mend e"),
        wrong("h", "i", "j", "mend h"),
    ]

    assert what_next(verdicts) == "2 checks failed, 1 is worth a look. Begin with e: mend e."
    assert what_next(verdicts[:2]) == "Nothing is wrong, 1 is worth a look. Begin with b: look at b."
    assert what_next(verdicts[:1]) == "Nothing is wrong, and there is nothing to do."


async def test_every_condition_and_every_watch_has_advice(tmp_path):
    world = World(tmp_path)

    async with world.running():
        watches = {each.name for each in world.plane.readiness.watches()}

    assert set(advice.FOR_CONDITIONS) == set(ConditionKind)
    assert set(advice.FOR_WATCHES) == watches


def test_a_service_that_is_not_ready_for_no_given_reason_is_a_failure(ready, examine):
    ready.answers("GET /readyz", {"status": "not ready", "dependencies": []}, status=503)
    ready.answers("GET /readyz", {"status": "not ready", "dependencies": []}, status=503)
    examine()

    assert examine()[0] == ExitCode.FAILED


@pytest.mark.parametrize("minutes", [-2, 2])
def test_clocks_that_disagree_are_a_failure(service, examine, minutes):
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    service.answers("GET /readyz", readiness(), Date=date)
    well(service)

    exit_code, checks = examine()

    assert exit_code == ExitCode.FAILED
    assert checks["clock"]["code"] == "clock-skew"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (("nomad", "Nomad v1.11.2"), "nomad-unsupported"),
        (("consul", "Consul v2.0.0"), "consul-unsupported"),
        (("vault", "segmentation fault"), "vault-broken"),
    ],
)
def test_a_program_that_will_not_do_is_a_failure(ready, examine, programs, program, code):
    name, says = program
    programs(name, says)

    exit_code, checks = examine()

    assert exit_code == ExitCode.FAILED
    assert checks[name]["code"] == code
    assert f"install {name} >=" in checks[name]["advice"]


def test_a_program_that_is_missing_is_a_warning(ready, examine, programs):
    programs("nomad", "").unlink()

    exit_code, checks = examine()

    assert exit_code == ExitCode.OK
    assert (checks["nomad"]["level"], checks["nomad"]["code"]) == ("warning", "nomad-missing")


def test_settings_are_checked_when_they_are_given(ready, examine, settings_file):
    assert examine("--settings", str(settings_file))[1]["settings"]["level"] == "ok"


def test_settings_that_are_wrong_are_a_failure(ready, examine, settings_file):
    settings_file.write_text(settings_file.read_text() + "workers = 0\n")

    exit_code, checks = examine("--settings", str(settings_file))

    assert exit_code == ExitCode.FAILED
    assert checks["settings"]["code"] == "settings-invalid"
    assert "workers" in checks["settings"]["detail"]
