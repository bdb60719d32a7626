"""The brief: program.md. Its front matter is the contract (contract.py), its prose for agents.

Reading and errors by line are reading.py's; what a metric's or a variable's name says is judged in
metric_names.py and secret_names.py.
"""

from autoresearch_action.brief.contract import DEFAULT_TIME_BUDGET, KEYS, Brief, Limit
from autoresearch_action.brief.reading import literal_time_budget, parse, read

__all__ = [
    "DEFAULT_TIME_BUDGET",
    "KEYS",
    "Brief",
    "Limit",
    "literal_time_budget",
    "parse",
    "read",
]
