"""How the log lines of data preparation say numbers and times."""

from datetime import datetime, timedelta


def counted(**numbers):
    """Numbers with what they count: `counted(sessions=1, clicks=2500)` is "1 session, 2,500 clicks"."""
    return ", ".join(f"{number:,} {name.removesuffix('s') if number == 1 else name}"
                     for name, number in numbers.items())


def sizes_of(clicks, *names):
    """How much is in a table of Clicks or StoredClicks; `names` are others than sessions, clicks and items."""
    return counted(**dict(zip(names or ("sessions", "clicks", "items"), clicks.sizes())))


def date(time):
    """A time in microseconds since 1970 as ISO 8601, in UTC, to the second."""
    return f"{(datetime(1970, 1, 1) + timedelta(microseconds=int(time))).isoformat(timespec='seconds')}Z"


def dates_of(clicks):
    """The times of the first and of the last click of a table."""
    return " to ".join(map(date, clicks.time_range()))
