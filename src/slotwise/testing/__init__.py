"""For tests of code that talks to a cluster: nodes that play a script, faults in real ones, and the proof afterwards.

`ScriptedCluster` plays nodes in this process, word for word. `Chaos` kills, freezes and reshards a real
`slotwise.local.LocalCluster`. `History` records what concurrent clients saw and tells which acknowledged writes
vanished or were applied twice. The pytest plugin that is installed along makes fixtures of them.
"""

from slotwise.testing.chaos import Chaos
from slotwise.testing.history import Call, History, Violation
from slotwise.testing.scripted import ErrorReply, ScriptedCluster, ScriptedNode

__all__ = ["Call", "Chaos", "ErrorReply", "History", "ScriptedCluster", "ScriptedNode", "Violation"]
