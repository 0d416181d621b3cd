"""Calls of every command method of the cluster client."""

from tests.differential.case import Case
from tests.differential.catalogue import (
    geo,
    hashes,
    keys,
    lists,
    newer,
    scripts,
    server,
    sets,
    sorted_sets,
    streams,
    strings,
    topology,
)

CASES: list[Case] = [
    one
    for module in (
        strings,
        keys,
        hashes,
        lists,
        sets,
        sorted_sets,
        geo,
        streams,
        scripts,
        server,
        topology,
        newer,
    )
    for one in module.CASES
]

# Methods of the mixins without a case, and why.
EXEMPT = {
    "debug_object": "redis-py finds no node for it; slotwise asks the node of the key, as the server wants it",
    "select": "redis-py fails on it with an AttributeError of its own, whatever the argument",
}
