"""Days and months, as ISO 8601 writes them: 2025-12-31."""

from datetime import date, timedelta


def add_months(day: str, months: int) -> str:
    """The same day `months` later (or earlier); the month's last one where it has no such day."""
    start = date.fromisoformat(day)
    month = start.month + months
    year = start.year + month // 12
    month = month % 12 or 12
    for last in (start.day, 30, 29, 28):
        try:
            return date(year, month, last).isoformat()
        except ValueError:
            continue
    raise ValueError(f"{day} has no month {months} later")


def workdays(first: str, end: str) -> int:
    """How many days from Monday to Friday lie in first ≤ day < end."""
    day, stop = date.fromisoformat(first), date.fromisoformat(end)
    count = 0
    while day <= stop:
        count += day.weekday() < 5
        day += timedelta(days=1)
    return count


def iso_week(day: str) -> str:
    """The week of ISO 8601 that a day is in: "2025-W01"."""
    year, week, _ = date.fromisoformat(day).isocalendar()
    return f"{year}-W{week:02}"
