"""Tokens: what they say, what they hide, and what is not believed."""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from django.core.signing import TimestampSigner, b64_encode
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from django_poolkit.routing import token
from django_poolkit.routing.floors import Floor, Position
from django_poolkit.routing.token import LONGEST, MOST, merge, seal, unseal

pytestmark = pytest.mark.core

SYSTEM = 7_400_000_000_000_000_001


def floor(lsn: int = 0x16_B374_D848, seconds: float = 20.0) -> Floor:
    return Floor(Position(SYSTEM, 3, lsn), time.time() + seconds)


def names(count: int) -> list[str]:
    return [f"shard {number}" for number in range(count)]


@pytest.fixture(autouse=True)
def many_clusters(settings: Any) -> Any:
    """Clusters enough to be too many for a token, and one without a replica."""
    clusters = {n: {"primary": f"{n} p", "replicas": [f"{n} r"]} for n in names(MOST + 2)}
    settings.POOLKIT = {"CLUSTERS": {**clusters, "alone": {"primary": "alone"}}}
    return settings


positions = st.builds(
    Position,
    system=st.integers(0, 2**64 - 1),
    timeline=st.integers(0, 2**32 - 1),
    lsn=st.integers(0, 2**64 - 1),
)


@with_settings(max_examples=60, deadline=None)
@given(found=st.dictionaries(st.sampled_from(names(MOST)), st.none() | positions))
def test_it_says_what_it_was_made_of(found):
    floors = {name: Floor(position, time.time() + 10.0) for name, position in found.items()}
    text = seal(floors)
    assert unseal(text) == floors
    assert len(text) <= LONGEST


def test_it_may_stand_in_a_cookie_a_header_or_an_address():
    text = seal({"shard 0": floor()})
    assert text.isascii()
    assert all(letter.isalnum() or letter in "-_." for letter in text)


def test_those_of_too_many_clusters_become_a_time_pin_of_all():
    expires = time.time() + 20.0
    floors = {name: Floor(Position(1, 1, 1), expires - n) for n, name in enumerate(names(MOST + 1))}
    text = seal(floors)
    assert unseal(text) == dict.fromkeys(names(MOST + 2), Floor(None, expires))
    assert len(text) <= LONGEST


# -- what it hides


def test_it_shows_neither_positions_nor_systems_nor_names():
    at = Position(SYSTEM, 3, 0x16_B374_D848)
    text = seal({"shard 0": Floor(at, time.time() + 20)})
    raw = urlsafe_b64decode(text.split(".")[0] + "==")
    for secret in (
        SYSTEM.to_bytes(8, "big"), SYSTEM.to_bytes(8, "little"),
        at.lsn.to_bytes(8, "big"), b"shard", token._digest("shard 0"),
    ):  # fmt: skip
        assert secret not in raw
    for written in (str(SYSTEM), f"{SYSTEM:x}", str(at.lsn), "16/B374D848", "B374D848", "shard"):
        assert written.lower() not in text.lower()


def test_two_of_the_same_floors_have_nothing_in_common():
    floors = {"shard 0": floor()}
    one, other = (urlsafe_b64decode(seal(floors).split(".")[0] + "==") for _ in range(2))
    assert len(one) == len(other) > 40
    # Of random bytes, one in 256 is the same by chance.
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_its_length_tells_a_position_from_a_time_pin_by_nothing():
    pin = Floor(None, time.time() + 20)
    assert len(seal({"shard 0": floor()})) == len(seal({"shard 0": pin}))


# -- what is not believed


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "0/4618BE0", "'; DROP TABLE app_item; --", "é.ü.ö", "\0", "." * 600],
)
def test_what_is_no_token_says_nothing(text):
    assert unseal(text) == {}


@with_settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=600))
def test_whatever_comes_it_never_raises(text):
    assert unseal(text) == {}


def test_a_changed_letter_makes_it_worthless():
    text = seal({"shard 0": floor()})
    for place in range(len(text)):
        changed = "A" if text[place] != "A" else "B"
        assert unseal(text[:place] + changed + text[place + 1 :]) == {}
        assert unseal(text[:place]) == {}


def test_what_was_signed_for_something_else_is_none(settings):
    masked = seal({"shard 0": floor()}).split(".")[0]
    assert unseal(TimestampSigner(sep=".", salt="something else").sign(masked)) == {}
    assert unseal(TimestampSigner(sep=".").sign(masked)) == {}
    settings.SECRET_KEY = "of another site"
    foreign = seal({"shard 0": floor()})
    settings.SECRET_KEY = "ours"
    assert unseal(foreign) == {}


def test_one_that_is_too_long_is_not_even_looked_at(monkeypatch):
    text = seal({"shard 0": floor()})
    monkeypatch.setattr(token, "LONGEST", len(text) - 1)
    monkeypatch.setattr(token, "_payload", pytest.fail)
    assert unseal(text) == {}


def test_a_signed_one_of_another_make_says_nothing(monkeypatch):
    monkeypatch.setattr(token, "_VERSION", 2)
    text = seal({"shard 0": floor()})
    monkeypatch.undo()
    assert unseal(text) == {}
    for payload in (b"", b"\x01" + bytes(5)):
        nonce = bytes(16)
        signer = TimestampSigner(sep=".", salt=token._SALT)
        masked = nonce + token._mask(payload, signer.key, nonce)
        assert unseal(signer.sign(b64_encode(masked).decode())) == {}


# -- how long it counts


def test_floors_that_have_expired_are_left_out():
    assert unseal(seal({"shard 0": floor(seconds=-1), "shard 1": floor(seconds=5)})).keys() == {
        "shard 1"
    }


def test_none_lasts_longer_than_max_age(settings):
    settings.POOLKIT = {**settings.POOLKIT, "ROUTING": {"MAX_AGE": 4.0}}
    [found] = unseal(seal({"shard 0": floor(seconds=10**9)})).values()
    assert time.time() + 3.0 < found.expires <= time.time() + 4.0


def test_a_token_that_is_given_back_late_says_nothing(monkeypatch):
    # Whatever its floors say: one that was caught on its way counts for no longer than others.
    now = time.time()
    text = seal({"shard 0": Floor(None, now + 10**9)})
    monkeypatch.setattr(time, "time", lambda: now + 29.0)
    assert unseal(text)
    monkeypatch.setattr(time, "time", lambda: now + 33.0)
    assert unseal(text) == {}


def test_keys_may_be_rotated(settings):
    settings.SECRET_KEY = "old"
    floors = {"shard 0": floor()}
    text = seal(floors)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", ["older", b"old"]
    assert unseal(text) == floors
    settings.SECRET_KEY_FALLBACKS = ["older"]
    assert unseal(text) == {}


def test_clusters_that_are_not_known_or_have_no_replica_are_left_out():
    floors = {"alone": floor(), "gone": floor(), "shard 1": floor()}
    assert unseal(seal(floors)).keys() == {"shard 1"}


def test_floors_that_are_merged_fulfil_all_of_them() -> None:
    low, high, other = floor(40, seconds=30.0), floor(60, seconds=20.0), floor(1)
    for first, *others in ([low, high], [high, low]):
        into = {"shard 1": first}
        merge(into, *({"shard 1": each} for each in others), {"shard 2": other})
        assert set(into) == {"shard 1", "shard 2"}
        assert into["shard 1"].position == high.position
        assert into["shard 1"].expires >= max(low.expires, high.expires)
        assert into["shard 2"] == other
