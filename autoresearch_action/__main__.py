"""`python -m autoresearch_action` is the command line."""

from autoresearch_action.cli import main

main()
