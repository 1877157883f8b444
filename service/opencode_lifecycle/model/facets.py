"""
Facets: the parts of a stack whose change means something different to a runtime.

The first six force a restart and stand in the job's meta, so that Nomad's own tools show them. The others change while
the process runs, so they must never be in meta or env, where any change restarts the task.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final


class Facet(StrEnum):
    IMAGE = "image"
    OPENCODE_VERSION = "opencode_version"
    TEMPLATE = "template"
    ENVIRONMENT = "environment"
    RESOURCES = "resources"
    SECRET_VERSION = "secret_version"  # noqa: S105 - the name of a facet
    PROMPT = "prompt"
    CONFIG = "config"
    LABELS = "labels"
    ENDPOINTS = "endpoints"
    EDITED_OUTSIDE = "edited_outside"
    MISSING = "missing"


RESTART_FACETS: Final = (
    Facet.IMAGE,
    Facet.OPENCODE_VERSION,
    Facet.TEMPLATE,
    Facet.ENVIRONMENT,
    Facet.RESOURCES,
    Facet.SECRET_VERSION,
)


def canonical(value: Any) -> str:
    """Write any JSON value in the one way that all equal values are written in."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    """Digest any JSON value: sixteen hex characters of SHA-256 over its canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def digest_of_text(text: str) -> str:
    """Content address of *text*: the whole SHA-256 in hex. Names a bundle."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """
    One stack as it should be, or as it was seen, facet by facet.

    `image`, `opencode_version` and `endpoints`, the template of public addresses, are shown as they are, since people
    read them; the rest are digests.
    """

    image: str
    opencode_version: str
    template: str
    environment: str
    resources: str
    secret_version: int
    prompt: str
    config: str
    labels: str
    endpoints: str

    def meta(self) -> Mapping[str, str]:
        """Return what the job's meta says of the facets that force a restart, and the revision over exactly these."""
        return {
            **{facet.value: str(getattr(self, facet.value)) for facet in RESTART_FACETS},
            "revision": self.revision,
        }

    @property
    def aim(self) -> str:
        """
        Digest over what a migration can be taken back from: everything but what is changed in place, and the secret.

        A password that was rotated away may be known to somebody, and is never gone back to.
        """
        return _aim_of(self)

    @property
    def revision(self) -> str:
        """Digest over the facets that force a restart."""
        return _revision_of(self)


# Most of a fleet is alike, and each of it is judged again and again.


@lru_cache(maxsize=4096)
def _revision_of(facets: Facets) -> str:
    return digest_of({facet.value: str(getattr(facets, facet.value)) for facet in RESTART_FACETS})


@lru_cache(maxsize=4096)
def _aim_of(facets: Facets) -> str:
    restart = {
        facet.value: getattr(facets, facet.value)
        for facet in RESTART_FACETS
        if facet is not Facet.SECRET_VERSION
    }
    return digest_of([restart, facets.prompt, facets.config])
