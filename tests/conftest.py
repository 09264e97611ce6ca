"""What holds for all tests."""

from __future__ import annotations

import signal
from typing import Any


def pytest_configure(config: Any) -> None:
    """Takes Ctrl-C back, which a shell takes from what it starts in the background: jobs of tests are interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
