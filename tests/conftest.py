"""Failures told as they happen; finished runs that the publishing tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import delivery
import pytest
from delivery import Delivery


class Teller:
    """A test run that is cut off later must not take what has failed until then with it."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_line(f"\n{report.nodeid} ({report.when})\n{report.longreprtext}")
            for name, text in report.sections:
                self.terminal.write_line(f"-- {name}\n{text[-4000:]}")

    def pytest_sessionfinish(self) -> None:
        self.terminal.config.option.tbstyle = "no"  # all have been told


@pytest.hookimpl(trylast=True)  # the terminal is there by then
def pytest_configure(config: pytest.Config) -> None:
    if terminal := config.pluginmanager.get_plugin("terminalreporter"):
        config.pluginmanager.register(Teller(terminal))


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
