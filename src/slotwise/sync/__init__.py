"""The blocking shell: sockets, clocks and locks around the decisions of `slotwise.routing`."""
