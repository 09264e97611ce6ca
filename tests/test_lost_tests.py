from types import SimpleNamespace

import pytest

from tests.lost_tests import LostTests

LOST = ["1 of 2 tests were collected and not run", "test_b"]


@pytest.mark.parametrize(("exitstatus", "said"), [(0, LOST), (1, LOST), (2, [])])
def test_what_was_collected_and_not_reported_is_named_where_the_run_was_not_interrupted(exitstatus, said):
    lost, lines = LostTests(), []
    lost.pytest_xdist_node_collection_finished(["test_a", "test_b"])
    lost.pytest_runtest_logreport(SimpleNamespace(nodeid="test_a"))
    terminal = SimpleNamespace(section=lambda title, **_: lines.append(title), line=lines.append)
    lost.pytest_terminal_summary(terminal, exitstatus)
    assert lines == said
