"""The ledger: an append-only journal of events, one JSON object a line, and what it says.

The only state of a run. `results.tsv` and the reports are views made by `report`; nothing here
renders anything.
"""

from autoresearch_action.ledger.experiments import CACHE, DamagedLedger, Experiments, parse
from autoresearch_action.ledger.journal import Ledger, read
from autoresearch_action.ledger.run_state import RunState

__all__ = ["CACHE", "DamagedLedger", "Experiments", "Ledger", "RunState", "parse", "read"]
