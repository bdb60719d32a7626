"""A limit for each test, failures told as they happen, finished runs that the publishing tests share."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import delivery
import pytest
from delivery import Delivery

LIMIT = 1200.0  # seconds of one test, its fixtures included, on the slowest machine


class Watch:
    """A test that hangs says where and ends its worker, which xdist replaces. Pytest's own leaves teardowns out after a failure."""

    def __init__(self) -> None:
        self.stderr = os.dup(2)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        timer = threading.Timer(LIMIT, self.end, [item.nodeid])
        timer.daemon = True
        timer.start()
        try:
            return (yield)
        finally:
            timer.cancel()

    def end(self, name: str) -> None:
        os.write(self.stderr, f"\n{name} has not ended within {LIMIT:g} s:\n".encode())
        faulthandler.dump_traceback(self.stderr)
        os._exit(1)


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
    config.pluginmanager.register(Watch())
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
