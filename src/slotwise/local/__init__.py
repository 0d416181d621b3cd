"""Real Redis or Valkey servers on this machine, for tests, demos and measurements.

Not needed by the client; nothing else of slotwise imports it.
"""

from slotwise.local.binary import ServerBinary, find_server
from slotwise.local.cluster import LocalCluster
from slotwise.local.errors import LocalError, NotReadyError, ServerNotFoundError, ServerStartError
from slotwise.local.node import LocalNode
from slotwise.local.servers import StandaloneServer
from slotwise.local.slots import SlotMove

__all__ = [
    "LocalCluster",
    "LocalError",
    "LocalNode",
    "NotReadyError",
    "ServerBinary",
    "ServerNotFoundError",
    "ServerStartError",
    "SlotMove",
    "StandaloneServer",
    "find_server",
]
