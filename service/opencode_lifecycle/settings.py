"""
Every setting, with its unit and the reason for its default. The only module that reads the environment.

A setting comes from a TOML file named with `--settings`, and from the environment as `OPENCODE_LIFECYCLE_<NAME>`, which
wins. Secrets are never settings: a setting names the file that holds one.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from opencode_lifecycle.model.errors import InvalidSettings
from opencode_lifecycle.model.identifiers import INSTALLATION_PATTERN
from opencode_lifecycle.model.states import WhenStale

ENVIRONMENT_PREFIX: Final = "OPENCODE_LIFECYCLE_"
VERSION_PATTERN: Final = r"^\d+\.\d+\.\d+$"

VariableName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
_PUBLIC_URL: Final = r"^https?://{0}*\{{job_id\}}(?:\{{job_id\}}|{0})*$".format(
    "[A-Za-z0-9._~:/?#@!&()*+,;=%-]"
)
"""An address in which a stack's job stands, so that no two stacks are sent to the same."""


class ResourceClassSettings(BaseModel):
    """CPU in MHz shares, memory reserved and at most, in MiB."""

    model_config = {"extra": "forbid", "frozen": True}

    cpu: PositiveInt
    memory: PositiveInt
    memory_max: PositiveInt

    @model_validator(mode="after")
    def _room(self) -> "ResourceClassSettings":
        if self.memory_max < self.memory:
            raise ValueError("memory_max is below memory")
        return self


class Rate(BaseModel):
    """A token bucket of one principal: `per_second` is its refill, `burst` its size."""

    model_config = {"extra": "forbid", "frozen": True}

    per_second: PositiveFloat
    burst: PositiveInt


class Rates(BaseModel):
    """Defaults are the API contract's."""

    model_config = {"extra": "forbid", "frozen": True}

    read: Rate = Rate(per_second=500, burst=1000)
    ensure: Rate = Rate(per_second=200, burst=400)
    lifecycle: Rate = Rate(per_second=50, burst=100)
    admin: Rate = Rate(per_second=20, burst=40)


class Settings(BaseSettings):
    """The whole configuration, complete or fatal."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    # Who we are
    installation: Annotated[str, Field(pattern=INSTALLATION_PATTERN)] = "main"
    """Marks what is ours in a shared cluster. Never change it while stacks exist: all their names follow from it."""
    production: bool = False
    """Refuse what is only fit for one machine: plain HTTP to the servers, the raw_exec driver, SQLite."""
    replicas: PositiveInt = 1
    """How many of this service run on the same database. More than one needs PostgreSQL."""

    # Where we listen
    listen_host: str = "127.0.0.1"
    listen_port: Annotated[int, Field(ge=0, le=65535)] = 8700

    # What we remember in
    database_url: str = "sqlite:///opencode-lifecycle.db"

    # Nomad
    nomad_address: str = "http://127.0.0.1:4646"
    nomad_token_file: Path
    nomad_ca_file: Path | None = None
    nomad_namespace: Annotated[str, Field(pattern=r"^[a-zA-Z0-9-]{1,128}$")] = "opencode"
    nomad_region: str = "global"
    nomad_node_pool: str = "default"
    nomad_datacenters: tuple[str, ...] = ("*",)

    # Vault
    vault_address: str = "http://127.0.0.1:8200"
    vault_token_file: Path
    vault_ca_file: Path | None = None
    vault_kv_mount: str = "kv"
    vault_workload_role: str = "opencode"
    """The JWT role that the jobs log in with."""

    # Consul
    consul_address: str = "http://127.0.0.1:8500"
    consul_token_file: Path
    consul_ca_file: Path | None = None

    # What runtimes are (release 1 is made of these)
    driver: Literal["docker", "raw_exec"] = "docker"
    job_template: Path | None = None
    """HCL file to use instead of the one for the driver that ships with the service."""
    image: str = ""
    """For docker: the image, best by digest. For raw_exec it is shown only."""
    opencode_version: Annotated[str, Field(pattern=VERSION_PATTERN)] = "1.18.34"
    opencode_floor: Annotated[str, Field(pattern=VERSION_PATTERN)] = "1.18.15"
    """No release is of an older version. Since August 2026, when their message-id clock wrapped, servers before 1.18.15
    silently lose prompts in sessions that began earlier, and stay healthy all the while."""
    opencode_path: Path | None = None
    """For raw_exec: the OpenCode executable. `{version}` in it stands for the version of the release."""
    config_check_path: Path | None = None
    """The OpenCode executable with which releases are checked, `{version}` as above. For raw_exec, when not set, the one
    that runtimes are started from; else without one no managed configuration is checked."""
    instructions_file: Path | None = None
    managed_config_file: Path | None = None
    runtime_environment: Mapping[VariableName, str] = {}
    resource_classes: Mapping[str, ResourceClassSettings] = {
        "small": ResourceClassSettings(cpu=200, memory=512, memory_max=2048),
        "medium": ResourceClassSettings(cpu=500, memory=1024, memory_max=4096),
        "large": ResourceClassSettings(cpu=1000, memory=2048, memory_max=8192),
    }
    default_resources: str = "small"
    allowed_environment: tuple[VariableName, ...] = ()
    """Names that callers, and releases, may set in the environment of a runtime."""
    secret_environment: tuple[VariableName, ...] = ()
    """Names under `env` of a stack's Vault secret that are rendered into its runtime."""
    public_url_template: Annotated[str, Field(pattern=_PUBLIC_URL)] | None = None
    """Such as `https://{job_id}.agents.example`; without it there are no public addresses."""

    # How we work
    start_deadline: timedelta = timedelta(minutes=3)
    """From registration to a proven address. An image pull is part of it."""
    stop_deadline: timedelta = timedelta(minutes=2)
    """From the stop to a terminal allocation, before it is called failed and tried again."""
    observation_max_age: timedelta = timedelta(seconds=30)
    """An older observation is unknown."""
    resync_interval: timedelta = timedelta(seconds=10)
    """Time between full listings of Nomad. Must be well below `observation_max_age`."""
    liveness_interval: timedelta = timedelta(seconds=10)
    secret_sweep_interval: timedelta = timedelta(minutes=5)
    """How often the version of each secret is looked at; all together at most 50 reads a second."""
    comparison_interval: timedelta = timedelta(minutes=5)
    """Between full comparisons: Consul's catalogue with what was proven, and every neighbour with our rows."""
    when_stale: WhenStale = WhenStale.IDLE
    """What is done about a running runtime that is stale: `report`, `idle` or `now`."""
    idle_after: timedelta = timedelta(minutes=5)
    """A runtime of which no session has changed, and that no backend has leased, for so long is idle."""
    recycle_age: timedelta | None = None
    """A runtime that is idle and older is started afresh; never, when not set."""
    recycle_memory: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """The share of its `memory_max` above which an idle runtime is started afresh. Needs cgroups on the nodes."""
    orphan_grace: timedelta = timedelta(hours=1)
    """How long an orphan that is proven ours is found again and again before it is deleted."""
    events_kept: timedelta = timedelta(days=90)
    claim_lifetime: timedelta = timedelta(seconds=60)
    """How long a replica that died keeps others off the stacks that it worked on, and off the rollout that it drove."""
    workers: Annotated[int, Field(ge=1, le=512)] = 64
    """Stacks worked on at the same time by one replica."""
    upstream_timeout: timedelta = timedelta(seconds=10)
    """For one call to Nomad, Vault or Consul."""
    threads: Annotated[int, Field(ge=1, le=128)] = 16
    """Size of the pool for synchronous client libraries."""
    shutdown_grace: timedelta = timedelta(seconds=10)
    max_body_bytes: PositiveInt = 65536
    rates: Rates = Rates()
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """
    Read and check all settings, or raise `InvalidSettings` with every problem at once.

    A name that is no setting is a problem, in the file as in the environment.
    """
    names = os.environ if environment is None else environment
    problems = [
        f"{name}: there is no such setting"
        for name in names
        if name.startswith(ENVIRONMENT_PREFIX)
        and name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")[0] not in Settings.model_fields
        and name not in _NOT_OF_THE_SERVICE
    ]
    if file is not None and not file.is_file():
        raise InvalidSettings([f"{file}: there is no such settings file"])

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        settings = FromFile()
    except ValidationError as error:
        problems += [
            f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise InvalidSettings(problems) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSettings([*problems, f"{file}: {error}"]) from None
    problems += _contradictions(settings)
    if problems:
        raise InvalidSettings(problems)
    return settings


_NOT_OF_THE_SERVICE: Final = frozenset(
    {f"{ENVIRONMENT_PREFIX}{name}" for name in ("URL", "TOKEN_FILE", "CACHE", "RELEASES_URL", "SETTINGS")}
)
"""Names with our prefix that the command line reads, and the service does not."""


def _contradictions(settings: Settings) -> list[str]:
    problems: list[str] = []
    for name in ("nomad_token_file", "vault_token_file", "consul_token_file"):
        problems += _secret_file_problems(name, getattr(settings, name))
    for name in ("instructions_file", "managed_config_file", "job_template", "opencode_path"):
        path: Path | None = getattr(settings, name)
        if path is not None and not (path := at_version(path, settings.opencode_version)).is_file():
            problems.append(f"{name}: {path} is not a file")
    if settings.default_resources not in settings.resource_classes:
        problems.append(f"default_resources: no resource class is called {settings.default_resources!r}")
    if _numbers(settings.opencode_version) < _numbers(settings.opencode_floor):
        problems.append(
            f"opencode_version: {settings.opencode_version} loses prompts; the safe floor is {settings.opencode_floor}"
        )
    if settings.resync_interval * 2 > settings.observation_max_age:
        problems.append("resync_interval: must be at most half of observation_max_age")
    if settings.claim_lifetime < settings.upstream_timeout * 3:
        problems.append(
            "claim_lifetime: must be at least three times upstream_timeout, or work is taken away too soon"
        )
    if settings.driver == "docker" and not settings.image:
        problems.append("image: the docker driver needs one")
    if settings.driver == "raw_exec" and settings.opencode_path is None:
        problems.append("opencode_path: the raw_exec driver needs one")
    if settings.replicas > 1 and settings.database_url.startswith("sqlite"):
        problems.append("database_url: SQLite serves one replica only; more need PostgreSQL")
    if settings.production:
        problems += _unfit_for_production(settings)
    return problems


def at_version(path: Path, version: str) -> Path:
    """Return *path* with *version* in the place of `{version}`."""
    return Path(str(path).replace("{version}", version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _unfit_for_production(settings: Settings) -> list[str]:
    problems = [
        f"{name}: plain HTTP is refused in production"
        for name in ("nomad_address", "vault_address", "consul_address")
        if not getattr(settings, name).startswith("https://")
    ]
    if settings.database_url.startswith("sqlite"):
        problems.append(
            "database_url: SQLite serves one machine only and is refused in production; use PostgreSQL"
        )
    if settings.driver == "raw_exec":
        problems.append("driver: raw_exec does not isolate users and is refused in production")
    return problems


def _secret_file_problems(name: str, path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return [f"{name}: {path}: {error.strerror}"]
    if mode & 0o077:
        return [f"{name}: {path} can be read by others (mode {mode & 0o777:04o}); chmod 600 it"]
    if not path.read_text().strip():
        return [f"{name}: {path} is empty"]
    return []


def describe(settings: Settings) -> Mapping[str, Any]:
    """Return the settings as plain values for a start-up log line, without the password of the database."""
    return {
        **settings.model_dump(mode="json"),
        "database_url": _shown(settings.database_url),
    }


def _shown(database_url: str) -> str:
    """Return *database_url* without what may hold a password: that of its user, and its query."""
    return _PASSWORD.sub(r"\1:••••@", database_url.partition("?")[0])


_PASSWORD: Final = re.compile(r"(//[^/@:]*):[^/]*@")
