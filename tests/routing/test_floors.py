"""Floors: what fulfils both is the same whatever comes first, and how often."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from django_poolkit.pools.postgres.wal import without_page_header
from django_poolkit.routing.floors import Floor, Position, later

POSITIONS = st.builds(
    Position,
    system=st.integers(1, 2),
    timeline=st.integers(1, 2),
    lsn=st.integers(0, 5),
)
FLOORS = st.one_of(
    st.none(),
    st.builds(Floor, position=st.none() | POSITIONS, expires=st.floats(0, 10)),
)
SEGMENT = 1024 * 1024
PAGE = 8192


@given(FLOORS, FLOORS)
def test_it_does_not_matter_which_comes_first(one, other):
    assert later(one, other) == later(other, one)


@given(FLOORS, FLOORS, FLOORS)
def test_it_does_not_matter_which_two_come_first(one, two, three):
    assert later(later(one, two), three) == later(one, later(two, three))


@given(FLOORS, FLOORS)
def test_what_has_come_may_come_again(one, other):
    both = later(one, other)
    assert later(one, one) == one
    assert later(both, one) == both


@given(FLOORS, FLOORS, POSITIONS)
def test_who_fulfils_both_fulfils_each(one, other, server):
    both = later(one, other)
    for each in (one, other):
        if each is None:
            continue
        assert both is not None
        assert both.expires >= each.expires
        if both.position is not None and both.position.reached_by(server):
            assert each.position is not None
            assert each.position.reached_by(server)


def test_positions_that_cannot_be_compared_leave_a_time_pin():
    one, other = Floor(Position(1, 1, 50), 3.0), Floor(Position(1, 2, 60), 2.0)
    assert later(one, other) == Floor(None, 3.0)


@given(st.integers(0, 4 * SEGMENT // 8).map(lambda n: 8 * n))
def test_a_position_loses_the_head_of_a_page_and_nothing_else(lsn):
    assume(lsn % SEGMENT != 24)  # in the midst of a segment's first head, where nothing begins
    end = without_page_header(lsn, SEGMENT)
    assert lsn - end in (0, 24, 40)
    if lsn != end:
        assert end % PAGE == 0
        assert (lsn - end == 40) == (end % SEGMENT == 0)
    # It is a record's end by now, so there is nothing more to take away.
    assert without_page_header(end, SEGMENT) == end
