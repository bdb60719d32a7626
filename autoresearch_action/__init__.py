"""autoresearch: propose edits, measure them honestly, keep what is promising, prove what is
claimed.
"""

__version__ = "0.1.0"
