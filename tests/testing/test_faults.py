"""The faulty network: a proxy in front of an echo server, and one in front of PostgreSQL."""

from __future__ import annotations

import socket
import struct
import threading
import time

import psycopg
import pytest

from django_poolkit.testing.faults import Snare, TCPProxy, silent_server, wait_until

PATIENCE = 10.0


@pytest.fixture
def echo():
    """The address of a server that sends back what it gets, until the client ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def answer(connection):
        with connection:
            try:
                while data := connection.recv(65_536):
                    connection.sendall(data)
            except OSError:
                pass

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    acceptor.join(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def proxy(echo):
    with TCPProxy(*echo) as proxy:
        yield proxy


def connect(proxy):
    return socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE)


def ask(client, data=b"hello"):
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        piece = client.recv(65_536)
        assert piece, "closed too early"
        answer += piece
    return answer


def test_the_proxy_carries_data_both_ways_and_counts(proxy):
    with connect(proxy) as one, connect(proxy) as two:
        assert ask(one) == b"hello"
        assert ask(one) == b"hello"
        assert ask(two) == b"hello"
        assert (proxy.connections, proxy.open_connections) == (2, 2)
        assert (proxy.round_trips, proxy.client_bytes) == (3, 15)
    wait_until(lambda: proxy.open_connections == 0)


def test_what_a_client_sends_before_an_answer_is_one_round_trip(proxy):
    with connect(proxy) as client:
        ask(client, b"!")
        proxy.stall()
        client.sendall(b"!")
        wait_until(lambda: proxy.client_bytes == 2)
        client.sendall(b"!")
        wait_until(lambda: proxy.client_bytes == 3)
    assert proxy.round_trips == 2


def test_the_proxy_carries_much_data_whole(proxy):
    data = bytes(range(256)) * 40_000
    answer = b""
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        while len(answer) < len(data):
            answer += client.recv(1 << 20)
        sender.join(PATIENCE)
    assert answer == data


def test_an_end_of_sending_is_passed_on_with_the_last_words(proxy):
    with connect(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(100):
            answer += piece
        assert answer == b"last words"


def test_a_stalled_proxy_accepts_but_forwards_nothing_until_it_resumes(proxy):
    with connect(proxy) as old:
        assert ask(old) == b"hello"
        proxy.stall()
        with connect(proxy) as new:
            for client in (old, new):
                client.sendall(b"hello")
                client.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.recv(5)
            proxy.resume()
            for client in (old, new):
                client.settimeout(PATIENCE)
                assert client.recv(5) == b"hello"


def test_a_refusing_proxy_keeps_old_connections_and_its_port(proxy):
    with connect(proxy) as old:
        assert ask(old) == b"hello"
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert ask(old) == b"hello"
        proxy.accept()
        proxy.accept()
        with connect(proxy) as new:
            assert ask(new) == b"hello"


def test_dropped_connections_are_reset_and_new_ones_work(proxy):
    with connect(proxy) as one, connect(proxy) as two:
        for client in (one, two):
            ask(client)
        assert proxy.drop() == 2
        for client in (one, two):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert proxy.drop() == 0
    with connect(proxy) as new:
        assert ask(new) == b"hello"


def test_a_stalled_connection_can_be_dropped(proxy):
    proxy.stall()
    with connect(proxy) as client:
        client.sendall(b"hello")
        wait_until(lambda: proxy.open_connections == 1)
        assert proxy.drop() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    proxy.resume()
    with connect(proxy) as new:
        assert ask(new) == b"hello"


def test_latency_holds_in_each_direction(proxy):
    with connect(proxy) as client:
        ask(client)
        proxy.latency = 0.1
        start = time.monotonic()
        ask(client)
        assert time.monotonic() - start >= 0.2


def test_a_server_that_is_gone_resets_the_client():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with TCPProxy(*address) as proxy:
        # It may be so quick that the connect itself meets the reset.
        with pytest.raises(ConnectionResetError), connect(proxy) as client:
            client.recv(1)
        wait_until(lambda: proxy.open_connections == 0)


def test_a_client_that_is_gone_resets_the_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with TCPProxy(*listener.getsockname()) as proxy:
            client = connect(proxy)
            server, _ = listener.accept()
            with server:
                server.settimeout(PATIENCE)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                with pytest.raises(ConnectionResetError):
                    server.recv(1)
            wait_until(lambda: proxy.open_connections == 0)


def test_a_closed_proxy_leaves_no_thread_no_port_and_no_connection(echo):
    before = threading.active_count()
    proxy = TCPProxy(*echo)
    client = connect(proxy)
    ask(client)
    threads = [thread.name for thread in threading.enumerate()]
    assert "poolkit-proxy" in threads
    proxy.close()
    proxy.close()
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with pytest.raises(RuntimeError, match="closed"):
        proxy.stall()
    wait_until(lambda: threading.active_count() <= before)


def test_a_silent_server_accepts_and_says_nothing():
    with silent_server() as server:
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(host=server.host, port=server.port, connect_timeout=2)
        client = socket.create_connection(server, timeout=PATIENCE)
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)


# In front of PostgreSQL


def test_postgresql_is_reached_through_the_proxy(pair):
    node = pair.primary
    with (
        TCPProxy(node.host, node.port) as proxy,
        node.connect(host=proxy.host, port=proxy.port) as connection,
    ):
        before = proxy.round_trips
        for _ in range(3):
            connection.execute("SELECT 1")
        assert proxy.round_trips - before == 3
        assert proxy.drop() == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


# The wait


def test_wait_until_returns_the_fact():
    answers = iter([0, "", "yes"])
    assert wait_until(lambda: next(answers)) == "yes"


@pytest.mark.parametrize("message", ["the rain", lambda: "the rain"])
def test_wait_until_is_bounded_and_says_what_it_waited_for(message):
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: the rain"):
        wait_until(lambda: False, 0.01, message)


def test_wait_until_passes_errors_on():
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)


@pytest.mark.parametrize(("where", "forwarded"), [("before", 0), ("after", 1)])
def test_a_snare_cuts_at_what_a_client_sends(proxy, where, forwarded):
    snare = proxy.snare = Snare("now", where)
    with connect(proxy) as client, connect(proxy) as other:
        other.sendall(b"then")
        assert other.recv(100) == b"then"
        client.sendall(b"say now")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert (snare.sent, snare.forwarded, snare.left) == (1, forwarded, 0)
        other.sendall(b"now")  # once was asked for
        assert other.recv(100) == b"now"
    assert (snare.sent, snare.forwarded) == (2, forwarded + 1)
