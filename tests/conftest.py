"""Fixtures of all tests, one concern a module."""

pytest_plugins = [
    "tests.fixtures.servers",
    "tests.fixtures.header",
    "tests.fixtures.leftovers",
]
