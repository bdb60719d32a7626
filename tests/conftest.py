"""Finished runs that the publishing tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import delivery
import pytest
from delivery import Delivery


@pytest.fixture(scope="session")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return delivery.make(tmp_path_factory.mktemp("proven"))


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return delivery.make(tmp_path_factory.mktemp("empty"), proven=False)


@pytest.fixture
def run(proven: Path, tmp_path: Path) -> Iterator[Delivery]:
    with delivery.delivered(proven, tmp_path) as made:
        yield made
