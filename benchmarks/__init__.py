"""How fast slotwise is, and beside whom.

``pytest benchmarks`` times single functions and calls (`micro`); ``python -m benchmarks`` prints
the table of whole clients on a local cluster (`cluster`). Saved runs lie in ``results``.
"""
