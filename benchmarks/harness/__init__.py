"""Whether `slotwise load-test` is to be believed: what it costs, and whether servers and the network count the same."""
