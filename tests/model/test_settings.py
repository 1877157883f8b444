"""Settings are complete or fatal, and every problem is named at once (B23)."""

from pathlib import Path

import pytest

from opencode_lifecycle import settings
from opencode_lifecycle.model.errors import InvalidSettings


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A settings file that is good, and a way to change it."""
    for name in list(settings.os.environ):
        if name.startswith(settings.ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)
    token, program = tmp_path / "token", tmp_path / "opencode"
    for path in (token, program):
        path.write_text("x")
        path.chmod(0o600)

    def write(**changes: object) -> Path:
        values = {
            "nomad_token_file": str(token),
            "vault_token_file": str(token),
            "consul_token_file": str(token),
            "driver": "raw_exec",
            "opencode_path": str(program),
            **changes,
        }
        file = tmp_path / "settings.toml"
        file.write_text(
            "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)
        )
        return file

    return write


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f'"{value}"'


def _problems(file: Path) -> str:
    with pytest.raises(InvalidSettings) as caught:
        settings.load(file)
    return "\n".join(caught.value.problems)


def test_a_complete_file_is_enough(complete):
    assert settings.load(complete()).installation == "main"


def test_the_environment_wins_over_the_file(complete, monkeypatch):
    monkeypatch.setenv("OPENCODE_LIFECYCLE_LISTEN_PORT", "9000")

    assert settings.load(complete(listen_port=8000)).listen_port == 9000


def test_b23_a_name_that_is_no_setting_is_refused_in_the_file(complete):
    assert "listen_prot" in _problems(complete(listen_prot=1))


def test_b23_a_name_that_is_no_setting_is_refused_in_the_environment(complete, monkeypatch):
    monkeypatch.setenv("OPENCODE_LIFECYCLE_LISTEN_PROT", "1")

    assert "OPENCODE_LIFECYCLE_LISTEN_PROT: there is no such setting" in _problems(complete())


def test_b23_a_value_of_the_wrong_type_is_refused(complete):
    assert "listen_port" in _problems(complete(listen_port="many"))


@pytest.mark.parametrize(
    "template", ["https://agents.example", "{job_id}.agents.example", "https://{user}.x/{job_id}"]
)
def test_b23_a_template_of_public_addresses_that_gives_none_of_its_own_to_each_stack_is_refused(
    complete, template
):
    assert "public_url_template" in _problems(complete(public_url_template=template))


def test_a_public_address_has_the_stacks_job_in_its_name_or_its_path(complete):
    for template in ("https://{job_id}.agents.example", "http://agents.example:8080/{job_id}/?of={job_id}"):
        assert settings.load(complete(public_url_template=template)).public_url_template == template


def test_b23_a_token_file_that_is_not_there_is_named(complete, tmp_path):
    assert f"vault_token_file: {tmp_path / 'none'}" in _problems(complete(vault_token_file=tmp_path / "none"))


def test_b23_a_token_file_that_others_can_read_is_refused(complete, tmp_path):
    (tmp_path / "token").chmod(0o644)

    assert "can be read by others" in _problems(complete())


def test_b23_an_empty_token_file_is_refused(complete, tmp_path):
    (tmp_path / "token").write_text("\n")

    assert "is empty" in _problems(complete())


def test_b23_plain_http_and_raw_exec_are_refused_in_production(complete):
    problems = _problems(complete(production=True))

    for name in ("nomad_address", "vault_address", "consul_address", "driver", "database_url"):
        assert name in problems


def test_b23_sqlite_is_refused_for_more_than_one_replica(complete):
    assert "PostgreSQL" in _problems(complete(replicas=2))


def test_the_program_is_looked_for_at_the_path_of_the_version(complete, tmp_path):
    (tmp_path / "1.18.34").mkdir()
    (tmp_path / "1.18.34" / "opencode").touch()
    path = str(tmp_path / "{version}" / "opencode")

    assert str(settings.load(complete(opencode_path=path)).opencode_path) == path
    problems = _problems(complete(opencode_path=path, opencode_version="1.18.35"))
    assert f"opencode_path: {tmp_path}/1.18.35/opencode is not a file" in problems


def test_the_safe_floor_is_an_operators_to_raise(complete):
    assert "1.18.35" in _problems(complete(opencode_floor="1.18.35"))


def test_b23_an_opencode_version_below_the_safe_floor_is_refused(complete):
    assert "1.18.15" in _problems(complete(opencode_version="1.18.14"))


def test_every_problem_is_named_at_once(complete, tmp_path):
    problems = _problems(complete(vault_token_file=tmp_path / "none", opencode_version="1.2.3", replicas=2))

    assert "vault_token_file" in problems
    assert "opencode_version" in problems
    assert "database_url" in problems


def test_no_problem_repeats_what_a_token_file_holds(complete, tmp_path):
    (tmp_path / "token").write_text("planted-secret")
    (tmp_path / "token").chmod(0o644)

    assert "planted-secret" not in _problems(complete())


def test_b23_a_claim_that_lapses_within_a_slow_call_is_refused(complete):
    assert "claim_lifetime" in _problems(complete(claim_lifetime=15))


@pytest.mark.parametrize(
    "url", ["postgresql://svc:planted-pw@db/x", "postgresql://db/x?password=planted-pw", "postgresql://db/x"]
)
def test_what_is_logged_of_the_settings_holds_no_password(complete, url):
    described = settings.describe(settings.load(complete(database_url=url)))

    assert "planted-pw" not in str(described)
    assert "db/x" in described["database_url"]
