"""Spans of time: said, read, merged and counted. Standard library only."""

from spans.calendar import add_months, iso_week, workdays
from spans.durations import parse, spell
from spans.merging import merge

__all__ = ["add_months", "iso_week", "merge", "parse", "spell", "workdays"]
