"""What can go wrong with local servers.

::

    LocalError
    ├── ServerNotFoundError     no server binary on this machine
    ├── ServerStartError        a server ended, or never answered; shows the tail of its log
    └── NotReadyError           the cluster did not settle in time; also a TimeoutError
"""


class LocalError(Exception):
    """Base of every error of `slotwise.local`."""


class ServerNotFoundError(LocalError):
    """No server binary was found, or the one named cannot be run."""


class ServerStartError(LocalError):
    """A server process did not come up."""


class NotReadyError(LocalError, TimeoutError):
    """The cluster did not become ready in time; the message names what is missing."""
