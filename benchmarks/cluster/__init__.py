"""Whole clients side by side on a local cluster.

A row of the table is one entry of `rows.ROWS`; a client is one entry of `clients.SYNC`.
"""
