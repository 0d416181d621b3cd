"""The micro benchmarks run against the same servers as the tests, and say so in their header."""

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.header", "tests.fixtures.leftovers"]
