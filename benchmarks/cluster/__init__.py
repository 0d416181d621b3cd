"""Whole clients side by side on a local cluster.

A row of the table is one entry of `rows.ROWS`, its targets are of `targets`; a client is one entry
of `clients.SYNC`, or of `async_clients`, or slotwise in a special `settings`.
"""
