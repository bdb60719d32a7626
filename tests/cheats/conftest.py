"""What the cheats are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from test_prepare import documents

import prepare
from autoresearch_action.records import Measurement
from autoresearch_action.trials.slot import SlotContext


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared once, from the standard library's files."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    for i, text in enumerate(documents()):
        (folder / "text" / f"{i:04d}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(folder))
        prepare.prepare(str(folder / "text"), trio.SMALL)
    return folder


@pytest.fixture(scope="session")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SlotContext, Measurement]:
    """A bench for the trio, and one step of the trio as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(data))
        made = trio.repository(tmp_path_factory.mktemp("trio") / "r", data)
        measured = trio.measure(made, trio.train())
    assert measured.outcome == "ok", measured.reason + measured.tail
    return made, measured


@pytest.fixture(scope="module")
def at(shared: tuple[SlotContext, Measurement], data: Path) -> Iterator[SlotContext]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTORESEARCH_DATA", str(data))
        yield shared[0]


@pytest.fixture(scope="module")
def honest(shared: tuple[SlotContext, Measurement]) -> Measurement:
    return shared[1]
