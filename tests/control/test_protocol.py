"""Frames, requests and replies, without a socket."""

from __future__ import annotations

import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_poolkit.control import protocol
from django_poolkit.control.protocol import ProtocolError, Request


def body(frame):
    [length] = struct.unpack(">I", frame[:4])
    assert length == len(frame) - 4
    return frame[4:]


def test_a_request_arrives_as_it_was_sent():
    frame = protocol.request("pause", {"seconds": 1.5, "databases": ["ä"]})
    assert json.loads(body(frame)) == {
        "version": 1, "command": "pause", "arguments": {"seconds": 1.5, "databases": ["ä"]},
    }  # fmt: skip
    assert protocol.read_request(body(frame)) == Request(
        "pause", {"seconds": 1.5, "databases": ["ä"]}
    )


def test_arguments_may_be_absent():
    assert protocol.read_request(b'{"version": 1, "command": "status"}') == Request("status", {})


def test_a_result_arrives_and_a_failure_is_raised():
    assert protocol.read_reply(body(protocol.success({"pid": 7}))) == {"pid": 7}
    with pytest.raises(ProtocolError, match="no such") as caught:
        protocol.read_reply(body(protocol.failure("unknown_command", "no such thing")))
    assert caught.value.code == "unknown_command"


BAD = {
    "nothing": (b"", "bad_frame"),
    "garbage": (b"\x00\xff\xfe", "bad_frame"),
    "no json": (b"pause", "bad_frame"),
    "two objects": (b"{}{}", "bad_frame"),
    "a list": (b"[]", "bad_frame"),
    "too deep": (b"[" * 60_000, "bad_frame"),
    "a number of many digits": (b'{"version": ' + b"1" * 60_000 + b"}", "bad_frame"),
    "no version": (b'{"command": "status"}', "bad_version"),
    "a later version": (b'{"version": 2, "command": "status"}', "bad_version"),
    "a version as text": (b'{"version": "1", "command": "status"}', "bad_version"),
    "no command": (b'{"version": 1}', "bad_frame"),
    "a command that is none": (b'{"version": 1, "command": ["status"]}', "bad_frame"),
    "arguments that are none": (b'{"version": 1, "command": "x", "arguments": 1}', "bad_frame"),
    "no number": (b'{"version": 1, "command": "x", "arguments": {"a": NaN}}', "bad_frame"),
}  # fmt: skip


@pytest.mark.parametrize(("payload", "code"), BAD.values(), ids=BAD.keys())
def test_what_is_no_request_is_refused(payload, code):
    with pytest.raises(ProtocolError) as caught:
        protocol.read_request(payload)
    assert caught.value.code == code
    assert payload.decode(errors="replace")[:20] not in str(caught.value) or not payload


@pytest.mark.parametrize(
    "payload",
    [
        b'{"version": 1}',
        b'{"version": 1, "ok": true}',
        b'{"version": 1, "ok": 1, "result": {}}',
        b'{"version": 1, "ok": true, "result": []}',
        b'{"version": 1, "ok": false, "error": "failed"}',
        b'{"version": 1, "ok": false, "error": 1, "message": "x"}',
    ],
)
def test_what_is_no_reply_is_refused(payload):
    with pytest.raises(ProtocolError) as caught:
        protocol.read_reply(payload)
    assert caught.value.code == "bad_frame"


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(payload):
    for read in (protocol.read_request, protocol.read_reply):
        try:
            read(payload)
        except ProtocolError as error:
            assert error.code in ("bad_frame", "bad_version")  # noqa: PT017


def test_a_length_is_refused_before_anything_of_it_is_read():
    assert protocol.length_of(struct.pack(">I", 100), 100) == 100
    for length in (101, 2**30, 2**32 - 1):
        with pytest.raises(ProtocolError) as caught:
            protocol.length_of(struct.pack(">I", length), 100)
        assert caught.value.code == "too_large"
    with pytest.raises(ProtocolError) as caught:
        protocol.length_of(b"\0\0\0\0", 100)
    assert caught.value.code == "bad_frame"


def test_what_is_too_long_or_no_json_is_not_sent():
    assert protocol.request("x", {"a": "b" * 65_000})
    with pytest.raises(ProtocolError) as caught:
        protocol.request("x", {"a": "b" * 65_536})
    assert caught.value.code == "too_large"
    with pytest.raises(ValueError, match="JSON"):
        protocol.success({"a": float("inf")})
    with pytest.raises(TypeError):
        protocol.success({"a": object()})


def test_the_system_says_who_is_at_the_other_end():
    import os

    left, right = socket.socketpair()
    with left, right:
        peer = protocol.peer_of(left)
        assert peer.uid == os.geteuid()
        assert peer.pid in (os.getpid(), 0)


class _Bsd:
    """What a socket of macOS answers to LOCAL_PEERCRED."""

    def __init__(self, version):
        self.answer = struct.pack("=2Ih2x16I", version, 501, 1, *[20] * 16)

    def getsockopt(self, level, option, size):
        assert (level, option) == (0, 1)
        assert size == len(self.answer)
        return self.answer


def test_macos_says_it_in_a_structure_of_its_own():
    assert protocol._peer_of_bsd(_Bsd(0)).uid == 501  # type: ignore[arg-type]
    with pytest.raises(OSError, match="version 1"):
        protocol._peer_of_bsd(_Bsd(1))  # type: ignore[arg-type]
