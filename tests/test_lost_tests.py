from types import SimpleNamespace

import pytest

from tests.lost_tests import LostTests


@pytest.mark.parametrize(("exitstatus", "said"), [(0, ["1 of 2 tests were collected and not run", "test_b"]), (1, [])])
def test_what_was_collected_and_not_reported_is_named_where_nothing_else_is_wrong(exitstatus, said):
    lost, lines = LostTests(), []
    lost.pytest_xdist_node_collection_finished(["test_a", "test_b"])
    lost.pytest_runtest_logreport(SimpleNamespace(nodeid="test_a"))
    terminal = SimpleNamespace(section=lambda title, **_: lines.append(title), line=lines.append)
    lost.pytest_terminal_summary(terminal, exitstatus)
    assert lines == said
