"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Takes Ctrl-C back, which a shell takes from what it starts in the background: jobs of tests are interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
