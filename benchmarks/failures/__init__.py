"""``python -m benchmarks.failures``: what callers notice of faults, slotwise beside redis-py."""
