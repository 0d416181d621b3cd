"""The catalogue is whole: a method that nobody calls fails here by name."""

from redis.cluster import RedisCluster

from tests.differential.catalogue import CASES, EXEMPT

# The namespaces that redis-py's command methods come from; the client's own methods are no commands.
COMMANDS = "redis.commands."


def command_methods() -> set[str]:
    return {
        name
        for kind in RedisCluster.__mro__
        if kind.__module__.startswith(COMMANDS)
        for name, member in vars(kind).items()
        if callable(member) and not name.startswith("_")
    }


def test_every_command_method_has_a_case() -> None:
    missing = command_methods() - {case.method for case in CASES} - set(EXEMPT)

    assert not missing, f"without a case and without a reason: {', '.join(sorted(missing))}"


def test_no_exemption_is_out_of_date() -> None:
    unknown = set(EXEMPT) - command_methods()

    assert not unknown, f"redis-py has no such methods: {', '.join(sorted(unknown))}"
    assert not set(EXEMPT) & {case.method for case in CASES}


def test_every_case_calls_a_method_that_exists() -> None:
    unknown = {case.method for case in CASES if not hasattr(RedisCluster, case.method)}

    assert not unknown, f"redis-py has no such methods: {', '.join(sorted(unknown))}"
