"""What can go wrong with the embedded cluster."""

from typing import ClassVar

from opencode_lifecycle.model.errors import LifecycleError


class ClusterError(LifecycleError):
    """The embedded cluster cannot do what was asked. The message says what to do about it."""

    code: ClassVar[str] = "cluster"


class ServerNotFound(ClusterError):
    """A server program is neither on this machine nor to be had. The message lists every way that was tried."""

    code: ClassVar[str] = "server-not-found"


class PortTaken(ClusterError):
    """Another process holds a port that belongs to this cluster for the life of its data."""

    code: ClassVar[str] = "port-taken"


class BootstrapFailed(ClusterError):
    """A server runs but could not be set up. Running `up` again goes on where it stopped."""

    code: ClassVar[str] = "bootstrap-failed"
