"""Fixtures of all tests, one concern a module."""

from hypothesis import HealthCheck, settings

pytest_plugins = [
    "pytester",
    "tests.fixtures.servers",
    "tests.fixtures.header",
    "tests.fixtures.leftovers",
]

# How long an example takes says more about who else uses the machine than about the code.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")
