"""Stands in a trial's sandbox where a module's text is evaluation data (bubblewrap.py); nothing
here imports it.
"""

raise ImportError("this part of Python's library is evaluation data here: a trial does not see it")
