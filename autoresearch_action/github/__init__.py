"""Where a run is delivered: GitHub's events, outputs, pull requests and the memory branch. Nothing
here runs a trial.
"""
