"""Exceptions: redis-py's classes, parsed as redis-py parses them, and ours that redis-py's code catches."""

import inspect
import pickle

import pytest
import redis
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers.base import BaseParser

from slotwise import errors

# Every text and prefix redis-py's parser knows.
PREFIXES = sorted(BaseParser.EXCEPTION_CLASSES)
ERR_TEXTS = sorted(BaseParser.EXCEPTION_CLASSES["ERR"])


def _redis_py_exceptions() -> dict[str, type[BaseException]]:
    return {
        name: value
        for name, value in vars(redis.exceptions).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def test_every_exception_of_redis_py_is_there() -> None:
    for name, exception in _redis_py_exceptions().items():
        assert getattr(errors, name) is exception
        assert name in errors.__all__


def test_all_names_exist_and_stand_in_the_tree() -> None:
    for name in errors.__all__:
        assert hasattr(errors, name)
        assert name == "parse_error" or name in (errors.__doc__ or "")


def _assert_parsed_as_by_redis_py(text: str) -> None:
    try:
        expected = BaseParser.parse_error(text)
    except ValueError:  # a redirect to nowhere
        expected = redis.ResponseError(text)
    mine = errors.parse_error(text)
    assert type(mine) is type(expected)
    assert mine.args == expected.args
    assert vars(mine) == vars(expected)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("rest", ["", " ", " some text", " 3999 127.0.0.1:6381", " 3999 :6381", " 1 host"])
def test_known_prefixes(prefix: str, rest: str) -> None:
    _assert_parsed_as_by_redis_py(prefix + rest)


@pytest.mark.parametrize("text", ERR_TEXTS)
def test_known_texts(text: str) -> None:
    _assert_parsed_as_by_redis_py(f"ERR {text}")
    assert type(errors.parse_error(f"ERR {text}")) is not redis.ResponseError


@given(
    st.one_of(
        st.text(),
        st.builds(
            "{}{}{}".format, st.sampled_from(PREFIXES), st.sampled_from(["", " ", "  ", ":"]), st.text()
        ),
        st.builds(
            "{} {} {}:{}".format,
            st.sampled_from(["MOVED", "ASK"]),
            st.integers(-1, 16384),
            st.sampled_from(["", "host", "::1", "fe80::1%eth0"]),
            st.integers(-1, 70000),
        ),
    )
)
def test_any_text(text: str) -> None:
    _assert_parsed_as_by_redis_py(text)


def test_redirects_carry_slot_and_address() -> None:
    moved = errors.parse_error("MOVED 3999 ::1:6381")
    assert isinstance(moved, redis.exceptions.MovedError)
    assert (moved.slot_id, moved.host, moved.port) == (3999, "::1", 6381)


def test_a_redirect_to_nowhere_is_a_response_error() -> None:
    for text in ("MOVED", "MOVED 1", "ASK x host:1", "MOVED 1 host:port", "MOVED 1 host"):
        error = errors.parse_error(text)
        assert type(error) is redis.ResponseError
        assert str(error) == text


@pytest.mark.parametrize(
    ("ours", "caught_as"),
    [
        (errors.UnknownOutcomeError, [redis.ConnectionError, redis.RedisError]),
        (
            errors.UnknownOutcomeTimeoutError,
            [errors.UnknownOutcomeError, redis.ConnectionError, redis.TimeoutError],
        ),
        (errors.NotSentError, [redis.ConnectionError]),
        (errors.ClosedClientError, [errors.NotSentError, redis.ConnectionError]),
        (errors.NodeUnavailableError, [errors.NotSentError, redis.ConnectionError]),
        (
            errors.CommandRefusedError,
            [redis.DataError, redis.RedisError, redis.exceptions.RedisClusterException],
        ),
    ],
)
def test_code_written_for_redis_py_catches_ours(
    ours: type[Exception], caught_as: list[type[Exception]]
) -> None:
    for caught in caught_as:
        with pytest.raises(caught, match="what happened"):
            raise ours("what happened")
    assert str(pickle.loads(pickle.dumps(ours("what happened")))) == "what happened"


def test_a_closed_client_names_the_fix() -> None:
    assert "close()" in str(errors.ClosedClientError())


def test_an_unavailable_node_says_when_to_come_back() -> None:
    error = errors.NodeUnavailableError("node a:1 does not answer", retry_in=0.25)
    assert error.retry_in == 0.25
    assert pickle.loads(pickle.dumps(error)).retry_in == 0.25
