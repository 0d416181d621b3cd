"""What an audit costs, and what it finds: ``python -m benchmarks.consistency``."""
