"""The templates' environment: undefined names are errors, blocks leave no blank lines."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(autoescape: bool) -> Environment:
    """Jinja with the templates of this folder."""
    return Environment(
        loader=PackageLoader("autoresearch_action.report"),
        undefined=StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
