"""The shared connection under TLS: the same promises, although Python's own code moves the bytes."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from slotwise import RedisCluster
from slotwise.errors import ClosedClientError
from slotwise.testing.scripted import ScriptedCluster, Words
from tests.sync import programs
from tests.sync.test_interrupts import Alarm, interrupt_after, interrupted, ring
from tests.sync.threads import PATIENCE, background, together

MIB = 1 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A self-signed certificate of 127.0.0.1 and its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "node.pem"
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return str(path)


def scripted_tls(certificate: str) -> ScriptedCluster:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return ScriptedCluster(1, tls=context)


def client_of(scripted: ScriptedCluster, certificate: str, **options: Any) -> RedisCluster:
    port = scripted.nodes[0].port
    return RedisCluster(host="127.0.0.1", port=port, ssl=True, ssl_ca_certs=certificate, **options)


def the_key(command: Words) -> bytes:
    """The reply that carries its key."""
    return b"value of " + command[1]


def test_calls_and_pipelines(certificate: str) -> None:
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        node.expect("GET").often().reply(the_key)
        client = client_of(scripted, certificate)

        def work(name: str) -> None:
            for n in range(100):
                key = f"{name}{n}"
                assert client.get(key) == b"value of " + key.encode()
                assert client.pipeline().get(key).get("x").execute() == [
                    the_key((b"GET", key.encode())),
                    b"value of x",
                ]

        together([lambda n=n: work(f"thread{n}:") for n in range(4)])
        client.close()


def test_big_values_both_ways(certificate: str) -> None:
    value = os.urandom(3 * MIB)
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        node.expect("GETSET").often().reply(lambda command: command[2])
        client = client_of(scripted, certificate)
        assert client.getset("a", value) == value
        pipe = client.pipeline()
        for n in range(8):
            pipe.getset(f"k{n}", value)
        assert pipe.execute() == [value] * 8
        client.close()


def test_time_out(certificate: str) -> None:
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        release = threading.Event()
        node.expect("GET", "slow").until(release).reply(b"late")
        node.expect("GET", "next").reply(b"right")
        client = client_of(scripted, certificate, socket_timeout=0.3, cluster_error_retry_attempts=0)
        with pytest.raises(redis.TimeoutError):
            client.get("slow")
        assert client.get("next") == b"right"
        release.set()
        client.close()


def test_connection_closed_while_idle(certificate: str) -> None:
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        node.expect("INCRBY").often().reply(1)
        client = client_of(scripted, certificate, cluster_error_retry_attempts=0)
        for _ in range(3):
            assert client.incr("a") == 1
            assert client.pipeline().incr("a").execute() == [1]
            time.sleep(0.05)
            node.drop_connections()
            time.sleep(0.05)
        client.close()


def test_close_ends_calls_under_way(certificate: str) -> None:
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        arrived, release = threading.Event(), threading.Event()
        node.expect("GET", "a").then(arrived).until(release)
        # It may have been sent by then.
        node.expect("GET", "b").often().reply(None)
        client = client_of(scripted, certificate, socket_timeout=None)
        leader = background(client.get, "a")
        assert arrived.wait(PATIENCE)
        follower = background(client.get, "b")
        time.sleep(0.1)
        client.close()
        for call in (leader, follower):
            with pytest.raises(ClosedClientError):
                call.result(PATIENCE)
        release.set()


def interrupt_a_reply(certificate: str) -> None:
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        waiting, release = threading.Event(), threading.Event()
        node.expect("GET", "a").send(b"$5\r\nwr").then(waiting).until(release).send(b"ong\r\n")
        node.expect("GET").often().reply(the_key)
        client = client_of(scripted, certificate)
        interrupt_after(waiting)
        assert interrupted(lambda: client.get("a"))
        release.set()
        assert client.get("b") == b"value of b"
        client.close()


def interrupt_again_and_again(certificate: str) -> None:
    """A signal may come when bytes have left the TLS layer and not reached the parser yet."""
    with scripted_tls(certificate) as scripted:
        node = scripted.nodes[0]
        node.expect("GET").often().reply(the_key)
        client = client_of(scripted, certificate)
        stop = threading.Event()

        def other() -> int:
            n = 0
            while not stop.is_set():
                n += 1
                assert client.get(f"other{n}") == b"value of other%d" % n
            return n

        others = [background(other) for _ in range(2)]

        # A function, since CPython 3.13 leaves the jump from a loop's end to its begin out of the `try` around it.
        def read_many(n: int) -> None:
            for i in range(100):
                key = f"key{n}.{i}"
                value = client.get(key)
                assert value == b"value of " + key.encode(), (key, value)

        signal.signal(signal.SIGALRM, ring)
        rung = n = 0
        until = time.monotonic() + 4
        while time.monotonic() < until:
            n += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + n % 17 * 0.0001)
                read_many(n)
            except Alarm:
                rung += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop.set()
        assert rung > 50
        for call in others:
            assert call.result(PATIENCE) > 0
        client.close()


@pytest.mark.parametrize("program", [interrupt_a_reply, interrupt_again_and_again], ids=lambda p: p.__name__)
def test_interrupts(certificate: str, program: Any) -> None:
    programs.run(program, certificate)
