"""Tests that were collected, and of which nothing was heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


class LostTests:
    """Names them at the end of a run to its end: in several processes it can end green where one has lost some."""

    def __init__(self) -> None:
        self.collected: set[str] = set()
        self.reported: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self.collected.update(ids)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reported.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        lost = sorted(self.collected - self.reported)
        if lost and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            terminalreporter.section(f"{len(lost)} of {len(self.collected)} tests were collected and not run", red=True)
            for name in lost:
                terminalreporter.line(name)
