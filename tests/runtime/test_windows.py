"""Windows of time: half-open, by the wall clock of their zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from policyengine.runtime.calendar_windows import (
    Absolute,
    Daily,
    Weekly,
    WholeDays,
    ZoneError,
    contains,
    days_between,
    load_zone,
    parse_absolute_window,
    parse_clock,
    parse_moment,
)
from policyengine.time_formats import to_utc

BERLIN = ZoneInfo("Europe/Berlin")
MON, TUE, FRI, SAT, SUN = 0, 1, 4, 5, 6
WEEKDAYS = frozenset(range(5))
OFFICE = Daily(WEEKDAYS, 8 * 60, 18 * 60, BERLIN)
NIGHT = Daily(frozenset({FRI}), 22 * 60, 6 * 60, BERLIN)
WEEKEND = Weekly(FRI, 16 * 60, MON, 8 * 60, BERLIN)


def berlin(text: str) -> datetime:
    """The first instant at which clocks in Berlin show this."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).astimezone(UTC)


# 2027-01-04 is a monday.
@pytest.mark.parametrize(
    ("window", "wall_clock", "inside"),
    [
        (OFFICE, "2027-01-04 07:59:59.999999", False),
        (OFFICE, "2027-01-04 08:00:00", True),
        (OFFICE, "2027-01-04 17:59:59.999999", True),
        (OFFICE, "2027-01-04 18:00:00", False),
        (OFFICE, "2027-01-09 12:00:00", False),
        (Daily(None, 8 * 60, 18 * 60, BERLIN), "2027-01-09 12:00:00", True),
        (NIGHT, "2027-01-08 21:59:00", False),
        (NIGHT, "2027-01-08 22:00:00", True),
        (NIGHT, "2027-01-09 05:59:00", True),
        (NIGHT, "2027-01-09 06:00:00", False),
        (NIGHT, "2027-01-09 22:30:00", False),
        (NIGHT, "2027-01-08 05:00:00", False),
        (Daily(None, 22 * 60, 6 * 60, BERLIN), "2027-01-05 03:00:00", True),
        (Daily(frozenset({SUN}), 22 * 60, 6 * 60, BERLIN), "2027-01-04 05:00:00", True),
        (Daily(frozenset({MON}), 8 * 60, 8 * 60, BERLIN), "2027-01-05 07:59:00", True),
        (Daily(frozenset({MON}), 8 * 60, 8 * 60, BERLIN), "2027-01-05 08:00:00", False),
        (Daily(frozenset({MON}), 0, 24 * 60, BERLIN), "2027-01-04 23:59:00", True),
        (Daily(frozenset({MON}), 0, 24 * 60, BERLIN), "2027-01-05 00:00:00", False),
        (WEEKEND, "2027-01-08 15:59:00", False),
        (WEEKEND, "2027-01-08 16:00:00", True),
        (WEEKEND, "2027-01-10 12:00:00", True),
        (WEEKEND, "2027-01-11 07:59:00", True),
        (WEEKEND, "2027-01-11 08:00:00", False),
        (Weekly(MON, 480, WEEKEND.start_day, 960, BERLIN), "2027-01-06 03:00:00", True),
        (Weekly(MON, 480, FRI, 960, BERLIN), "2027-01-08 16:00:00", False),
        (WholeDays(frozenset({SAT, SUN}), BERLIN), "2027-01-09 00:00:00", True),
        (WholeDays(frozenset({SAT, SUN}), BERLIN), "2027-01-10 23:59:59", True),
        (WholeDays(frozenset({SAT, SUN}), BERLIN), "2027-01-11 00:00:00", False),
    ],
)
def test_a_window_includes_its_start_and_excludes_its_end(window, wall_clock, inside):
    assert contains(window, berlin(wall_clock)) is inside


def test_the_zone_of_a_window_determines_the_day():
    late_sunday_in_utc = datetime(2027, 1, 3, 23, 30, tzinfo=UTC)
    assert contains(WholeDays(frozenset({MON}), BERLIN), late_sunday_in_utc)


def open_minutes(window, first: str, last: str) -> int:
    start, end = berlin(first), berlin(last)
    minutes = int((end - start) / timedelta(minutes=1))
    return sum(contains(window, start + timedelta(minutes=minute)) for minute in range(minutes))


ONE_TO_FOUR = Daily(None, 60, 240, BERLIN)


@pytest.mark.parametrize(
    ("day", "next_day", "minutes"),
    [
        ("2027-03-27 00:00", "2027-03-28 00:00", 180),
        ("2027-03-28 00:00", "2027-03-29 00:00", 120),
        ("2027-10-31 00:00", "2027-11-01 00:00", 240),
    ],
)
def test_a_daily_window_is_an_hour_shorter_or_longer_if_clocks_change(day, next_day, minutes):
    assert open_minutes(ONE_TO_FOUR, day, next_day) == minutes


def test_a_window_inside_the_skipped_hour_never_opens():
    skipped = Daily(None, 2 * 60, 3 * 60, BERLIN)
    assert open_minutes(skipped, "2027-03-28 00:00", "2027-03-29 00:00") == 0


def test_a_window_in_a_repeated_hour_is_open_twice():
    repeated = Daily(None, 2 * 60, 3 * 60, BERLIN)
    assert open_minutes(repeated, "2027-10-31 00:00", "2027-11-01 00:00") == 120


def test_office_hours_follow_summer_time():
    assert contains(OFFICE, datetime(2027, 7, 5, 6, 0, tzinfo=UTC))
    assert not contains(OFFICE, datetime(2027, 1, 4, 6, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    ("start", "end", "wall_clock", "inside"),
    [
        ("2026-12-24", "2027-01-02", "2026-12-23 23:59:59", False),
        ("2026-12-24", "2027-01-02", "2026-12-24 00:00:00", True),
        ("2026-12-24", "2027-01-02", "2027-01-02 23:59:59", True),
        ("2026-12-24", "2027-01-02", "2027-01-03 00:00:00", False),
        ("2026-12-24", "2026-12-24", "2026-12-24 12:00:00", True),
        ("2026-12-24T08:00", "2026-12-24T09:00", "2026-12-24 09:00:00", False),
        ("2026-12-24T08:00", "2026-12-24", "2026-12-24 23:00:00", True),
        ("2026-12-24T08:00:00Z", "2026-12-24T09:00:00Z", "2026-12-24 09:30:00", True),
        ("2027-03-28", "2027-03-28", "2027-03-28 23:59:59", True),
        ("2027-01-02", "2026-12-24", "2026-12-30 12:00:00", False),
    ],
)
def test_a_window_of_dates_includes_the_whole_last_day(start, end, wall_clock, inside):
    window = parse_absolute_window(start, end, BERLIN)
    assert isinstance(window, Absolute)
    assert contains(window, berlin(wall_clock)) is inside


@pytest.mark.parametrize("text", ["2027-02-30", "2027-1-1", "soon", "2027-01-01T25:00", "9999-12-31", "0001-01-01"])
def test_an_invalid_date_is_neither_a_time_nor_a_window(text):
    assert parse_moment(text, BERLIN) is None
    assert parse_absolute_window(text, text, BERLIN) is None


def test_a_time_with_its_own_zone_ignores_the_zone_of_the_window():
    assert parse_moment("2027-01-01T12:00:00Z", BERLIN) == datetime(2027, 1, 1, 12, tzinfo=UTC)


def test_every_time_of_a_fact_exists_in_every_zone():
    first, last = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, tzinfo=UTC)
    for zone in (ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Pacific/Pago_Pago")):
        window = Daily(None, 0, 1440, zone)
        assert contains(window, to_utc(first))
        assert contains(window, to_utc(last))


@pytest.mark.parametrize(
    ("first", "last", "days"),
    [
        ("mon", "fri", {0, 1, 2, 3, 4}),
        ("fri", "mon", {4, 5, 6, 0}),
        ("tue", "tue", {1}),
        ("tue", "mon", set(range(7))),
    ],
)
def test_day_ranges_wrap_round_the_week(first, last, days):
    assert days_between(first, last) == days


@pytest.mark.parametrize(("first", "last"), [("monday", "fri"), ("mon", "Fri"), ("", "")])
def test_days_between_returns_none_for_an_invalid_day(first, last):
    assert days_between(first, last) is None


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("00:00", 0), ("08:30", 510), ("23:59", 1439), ("24:00", 1440), ("24:01", None), ("8:00", None), ("12:60", None)],
)
def test_a_clock_time_is_minutes_since_midnight(text, minutes):
    assert parse_clock(text) == minutes


@pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_load_zone_accepts_iana_names(name):
    assert load_zone(name).key == name


@pytest.mark.parametrize(
    "name",
    ["", "europe/berlin", "Europe", "../etc/passwd", "/etc/localtime", "Europe/../Europe/Berlin", "Europe/Berlin\0",
     "posix/Europe/Berlin", "right/UTC", "localtime", "posixrules", "CEST", " UTC", "+01:00"],
)  # fmt: skip
def test_load_zone_rejects_other_names(name):
    with pytest.raises(ZoneError):
        load_zone(name)


def test_a_misspelled_zone_gets_a_suggestion():
    with pytest.raises(ZoneError) as error:
        load_zone("Europe/Berln")
    assert error.value.message == "unknown time zone `Europe/Berln`"
    assert error.value.hint == "did you mean `Europe/Berlin`?"
