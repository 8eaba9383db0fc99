"""The last minutes of a pool, put together from what several processes remember."""

from __future__ import annotations

from typing import Any

from django_poolkit.dashboard.history import HEIGHT, WIDTH, Point, area, line, together


def remembered(*samples: tuple[float, int], used: int = 0, most: int = 4) -> dict[str, Any]:
    """Return a pool as a process describes it: samples of age and used, and now."""
    history = [(age, each, most, each * 2) for age, each in samples]
    return {"used": used, "max_size": most, "waiters": 0, "history": history}


def test_the_sums_over_all_processes_at_each_point() -> None:
    points = together([remembered((9.0, 1), (4.0, 2), used=3), remembered((8.0, 3), used=1)])
    assert points == [Point(5.0, 4, 8, 8), Point(0.0, 4, 8, 0)]


def test_a_sample_that_is_late_is_stood_in_for_by_the_one_before() -> None:
    points = together([remembered((17.0, 1), (3.0, 2), used=3)])
    assert [(point.age, point.used) for point in points] == [(15.0, 1), (10.0, 1), (0.0, 3)]


def test_a_process_that_has_just_begun_adds_what_it_has() -> None:
    points = together([remembered((11.0, 1), (6.0, 1)), remembered(used=2)])
    assert points[0] == Point(10.0, 1, 4, 2)
    assert points[-1] == Point(0.0, 2, 8, 0)


def test_nobody_remembers_more_than_is_shown() -> None:
    points = together([remembered((605.1, 9), (599.0, 1), (3000.0, 9))])
    assert points[0].age <= 600.0
    assert max(point.used for point in points) == 1 or points[0].age == 600.0


def test_without_a_process_there_is_no_point() -> None:
    assert together([]) == []
    assert area([], 1.0) == line([], 1.0) == ""


def test_a_line_goes_from_left_to_right_and_up() -> None:
    values = [(600.0, 0.0), (300.0, 0.5), (0.0, 2.0)]
    assert line(values, 1.0) == f"0.0,{HEIGHT:.1f} {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH:.1f},0.0"
    assert area(values, 1.0).split()[0] == f"0.0,{HEIGHT}"
    assert area(values, 1.0).split()[-1] == f"{WIDTH:.1f},{HEIGHT}"
