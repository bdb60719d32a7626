"""The templates' environment: undefined names are errors, blocks leave no blank lines."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autoresearch_action import text


def environment(html: bool) -> Environment:
    """Jinja with the templates of this folder. Whatever they put out is harmless: HTML escaped and
    visible, Markdown inert.
    """
    return Environment(
        loader=PackageLoader("autoresearch_action.report"),
        undefined=StrictUndefined,
        autoescape=html,
        finalize=_visible if html else text.finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _visible(value: Any) -> Any:
    return text.visible(value) if type(value) is str else value
