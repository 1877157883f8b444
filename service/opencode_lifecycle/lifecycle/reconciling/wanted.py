"""
What a stack should be, worked out from its intent and its release. Pure.

The same function feeds the job, the digests in the row and the comparison with what runs, so the three cannot disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from opencode_lifecycle.lifecycle.requests.request import DEFAULT_GROUP
from opencode_lifecycle.model.errors import UpstreamRejected
from opencode_lifecycle.model.facets import Facets, digest_of, digest_of_text
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.job_template import declared_variables
from opencode_lifecycle.model.release import Release, ResourceClass
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Variables

BUNDLES_PATH = "opencode/bundles"
NO_ENDPOINTS = "none"
"""The facet where nothing is told of an address from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every job of this installation has in common."""

    installation: str
    node_pool: str
    datacenters: tuple[str, ...]
    vault_kv_mount: str
    vault_role: str
    secret_environment: tuple[str, ...]
    entrypoint: tuple[str, ...]
    opencode_path: str
    """`{version}` in it stands for the version of the release. The version has a facet of its own, so it is left as it is
    in what counts as part of the template."""
    public_url_template: str | None = None
    """Where browsers reach a stack: `{job_id}` in it stands for its job. None where nobody is let in from outside."""

    def public_url(self, job_id: JobId) -> str | None:
        """Return where browsers reach the stack of that job, or None where there is no ingress."""
        template = self.public_url_template
        return template.replace("{job_id}", job_id) if template is not None else None


def resource_class_of(stack: Stack, release: Release) -> ResourceClass:
    """Return what the stack may use, or raise `UpstreamRejected` when its release knows no such class."""
    found = release.resource_classes.get(stack.intent.resources)
    if found is None:
        raise UpstreamRejected(
            "nomad",
            "render the job",
            f"release {release.number} has no resource class {stack.intent.resources!r}",
        )
    return found


def environment_of(stack: Stack, release: Release) -> Mapping[str, str]:
    return {**release.environment, **stack.intent.environment}


def wanted_facets(stack: Stack, release: Release, site: Site, *, secret_version: int) -> Facets:
    """
    Return every facet of *stack* on *release* with the password of *secret_version*.

    A resource class that the release does not know is a facet all the same, so that such a stack can be shown, stopped
    and deleted; only its job cannot be rendered.

    What of our own settings goes into the job counts as part of its template. A runtime that was registered before that
    was so is not called stale for it, since nothing tells what they were: it is at its next start that they are.
    """
    knows_no_site = (
        stack.status.phase is Phase.RUNNING
        and stack.status.facets is not None
        and stack.status.facets.template == release.template_digest
    )
    resources = release.resource_classes.get(stack.intent.resources)
    return Facets(
        image=release.image,
        opencode_version=release.opencode_version,
        template=release.template_digest if knows_no_site else _digest_of_template(release.template, site),
        environment=_digest_of_environment(
            tuple(environment_of(stack, release).items()), site.secret_environment
        ),
        resources=_digest_of_resources(resources if resources is not None else stack.intent.resources),
        secret_version=secret_version,
        prompt=digest_of_text(release.instructions)[:16],
        config=digest_of_text(release.managed)[:16],
        labels=_digest_of_labels(tuple(stack.intent.labels.items()), stack.intent.group),
        endpoints=site.public_url_template or NO_ENDPOINTS,
    )


# Most of a fleet is alike, and each of it is judged again and again.


@lru_cache(maxsize=64)
def _digest_of_template(template: str, site: Site) -> str:
    """Digest *template* with the settings that it takes. What has a facet of its own, or never changes, is not among them."""
    declared = declared_variables(template)
    settings = {name: value for name, value in _settings_of(site).items() if name in declared}
    return digest_of([template, settings])


def _settings_of(site: Site) -> Variables:
    """Return the variables whose values are the same in every job of the installation, and may be set otherwise some day."""
    return {
        "node_pool": site.node_pool,
        "datacenters": list(site.datacenters),
        "vault_role": site.vault_role,
        "bundles_path": BUNDLES_PATH,
        "entrypoint": list(site.entrypoint),
        "opencode_path": site.opencode_path,
        "secret_path": _secret_path(site, ""),
    }


def _secret_path(site: Site, job_id: str) -> str:
    return f"{site.vault_kv_mount}/data/opencode/{job_id}"


@lru_cache(maxsize=4096)
def _digest_of_environment(environment: tuple[tuple[str, str], ...], secret: tuple[str, ...]) -> str:
    return digest_of([dict(environment), sorted(secret)])


@lru_cache(maxsize=256)
def _digest_of_resources(resources: ResourceClass | str) -> str:
    if isinstance(resources, str):
        return digest_of(resources)
    return digest_of([resources.cpu, resources.memory, resources.memory_max])


@lru_cache(maxsize=4096)
def _digest_of_labels(labels: tuple[tuple[str, str], ...], group: str) -> str:
    """Digest what is written on a job for people to tell it by. The group of most, the default, is none."""
    return digest_of(dict(labels)) if group == DEFAULT_GROUP else digest_of([dict(labels), group])


def job_variables(
    stack: Stack, release: Release, site: Site, facets: Facets, *, restore_snapshot: str = ""
) -> Variables:
    """
    Return the values for the template's variables.

    The job is built of *facets* and nothing that could differ from them. Optional variables that the template does not
    declare are left out: a template without a workspace or live files is asked for none.
    """
    resources = resource_class_of(stack, release)
    workspace = stack.status.workspace
    values: Variables = {
        **_settings_of(site),
        "opencode_path": site.opencode_path.replace("{version}", facets.opencode_version),
        "job_id": stack.job_id,
        "namespace": stack.namespace,
        "installation": site.installation,
        "user_id": stack.user_id,
        "image": facets.image,
        "opencode_version": facets.opencode_version,
        "template_digest": facets.template,
        "environment_digest": facets.environment,
        "resources_digest": facets.resources,
        "secret_version": facets.secret_version,
        "revision": facets.revision,
        "cpu": resources.cpu,
        "memory": resources.memory,
        "memory_max": resources.memory_max,
        "environment": dict(environment_of(stack, release)),
        "secret_environment": list(site.secret_environment),
        "secret_path": _secret_path(site, stack.job_id),
        "workspace_node": workspace.node_id if workspace is not None else "",
        "workspace_path": workspace.path if workspace is not None else "",
        "restore_snapshot": restore_snapshot,
        "description": _description(stack, release),
        "public_url": site.public_url(stack.job_id) or "",
        "labels": dict(stack.intent.labels),
    }
    declared = declared_variables(release.template)
    return {name: value for name, value in values.items() if name in declared}


MANDATORY_VARIABLES = frozenset(
    {
        "job_id",
        "installation",
        "user_id",
        "image",
        "opencode_version",
        "template_digest",
        "environment_digest",
        "resources_digest",
        "secret_version",
        "revision",
    }
)
"""Without these a job could not be told from a stranger's, or a stale one from a current one."""


def _description(stack: Stack, release: Release) -> str:
    return (
        f"OpenCode {release.opencode_version} of one user, kept by the OpenCode lifecycle control plane.\n\n"
        f"- user: `{stack.user_id}`\n- group: `{stack.intent.group}`\n- release: {release.number}\n"
    )
