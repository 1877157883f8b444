"""What differs where a stack is stale, in words in place of digests: as far as both sides are known. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from opencode_lifecycle.lifecycle.reconciling.wanted import Site, environment_of, wanted_facets
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.release import Release, ResourceClass
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.staleness import Staleness, in_words


def in_detail(
    reasons: Sequence[Staleness], stack: Stack, releases: Releases, site: Site
) -> tuple[Staleness, ...]:
    """
    Return *reasons* with the names of variables and the figures of resource classes, where the digests bear them out.

    Of a variable it is told that it is set, never to what: a release, or a backend, may have put anything there. What the
    running job was built of is in the row, unless it was found without one or edited outside; its digest is shown then.
    """
    if all(reason.facet not in {Facet.ENVIRONMENT, Facet.RESOURCES} for reason in reasons):
        return tuple(reasons)
    built, registered = stack.status.built, stack.status.facets
    wanted = releases.peek(stack.intent.wanted_release)
    before = releases.peek(built.release) if built is not None else None
    if built is None or registered is None or wanted is None or before is None:
        return tuple(reasons)
    intent = replace(
        stack.intent,
        wanted_release=built.release,
        resources=built.resources,
        environment=built.environment,
    )
    as_built = replace(stack, intent=intent)
    facets = wanted_facets(as_built, before[0], site, secret_version=registered.secret_version)
    told = {}
    if facets.environment == registered.environment:
        told[Facet.ENVIRONMENT] = _variables(
            environment_of(as_built, before[0]), environment_of(stack, wanted[0])
        )
    if facets.resources == registered.resources:
        told[Facet.RESOURCES] = (
            _resources(built.resources, before[0]),
            _resources(stack.intent.resources, wanted[0]),
        )
    return tuple(_with(reason, told.get(reason.facet, ("", ""))) for reason in reasons)


def _with(reason: Staleness, sides: tuple[str, str]) -> Staleness:
    """Return *reason* with what is told of its *sides*; as it is where of one there is nothing to tell, or both look alike."""
    have, want = sides
    return replace(reason, have=have, want=want) if have and want and have != want else reason


def _variables(have: Mapping[str, str], want: Mapping[str, str]) -> tuple[str, str]:
    differing = sorted(name for name in {*have, *want} if have.get(name) != want.get(name))
    return in_words(
        [
            (
                name,
                "set" if name in have else "",
                "" if name not in want else "set otherwise" if name in have else "set",
            )
            for name in differing
        ]
    )


def _resources(name: str, release: Release) -> str:
    found: ResourceClass | None = release.resource_classes.get(name)
    if found is None:
        return ""
    return f"{name}: cpu {found.cpu}, memory {found.memory}, memory_max {found.memory_max}"
