from __future__ import annotations

import sys
from pathlib import Path

import _side
import numpy as np
import pandas as pd
import pytest
from _side import Sequences
from _sides import Side, judge, task_arrays

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut

FAKE = """
import sys
sys.path.append({peers!r})
import numpy as np
from _side import Channel, Turns, serve

channel = Channel()
print("a library talks")
turns = Turns(channel, lambda: {{"blocks": 5}})
turns.on_train_start(None, None)
print("and talks")
for _ in range(2):
    turns.on_train_epoch_start(None, None)
    turns.on_train_epoch_end(None, None)
serve(channel, lambda: np.ones((3, 100), dtype=np.int64))
"""


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(1)
    lengths = random.integers(1, 7, 30)
    n = lengths.sum()
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(30), lengths), "item_id": random.integers(0, 20, n), "timestamp": np.arange(n)}
    )
    with pytest.warns(UserWarning):
        return LeaveLastOut()(EventLog.from_frame(frame, Schema(name="toy")))


def test_peers_train_on_and_rank_for_what_the_split_says(split):
    arrays = task_arrays(split)
    train = Sequences(arrays["train_items"], arrays["train_offsets"])
    history = Sequences(arrays["history_items"], arrays["history_offsets"])
    items = split.log.item_id
    expected = [items[a:b].tolist() for a, b in zip(split.train_start, split.train_end, strict=True) if b - a >= 2]
    assert [train[row].tolist() for row in range(len(train))] == expected
    known = zip(split.test.history_start, split.test.history_end, strict=True)
    assert [history[row].tolist() for row in range(len(history))] == [items[a:b].tolist() for a, b in known]
    assert train.rows().tolist() == [row for row, seq in enumerate(expected) for _ in seq]
    assert train.places().tolist() == [place for seq in expected for place in range(len(seq))]


def test_lists_are_judged_against_the_last_events(split, tmp_path):
    wanted = np.asarray(split.log.item_id)[split.test.target_start]
    lists = np.zeros((len(wanted), 100), dtype=np.int64)
    lists[: len(wanted) // 2, 1] = wanted[: len(wanted) // 2]
    np.save(tmp_path / "lists.npy", lists)
    share = (len(wanted) // 2) / len(wanted)
    assert judge(tmp_path / "lists.npy", split) == pytest.approx(
        {"HR@10": share, "NDCG@10": share / np.log2(3)}, abs=1e-5
    )


def test_a_side_takes_turns_and_what_libraries_print_does_not_disturb(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE.format(peers=str(Path(_side.__file__).parent)))
    side = Side("fake", [sys.executable, str(script)], tmp_path / "log")
    try:
        assert side.facts == {"blocks": 5}
        assert side.ask("epoch")["seconds"] >= 0
        assert side.ask("epoch")["peak_rss_mib"] > 1
        assert side.ask("rank", str(tmp_path / "lists.npy"))["seconds"] >= 0
        assert np.load(tmp_path / "lists.npy").shape == (3, 100)
    finally:
        side.end()


def test_a_side_that_dies_says_why(tmp_path):
    with pytest.raises(SystemExit, match="out of luck"):
        Side("fake", [sys.executable, "-c", "raise ValueError('out of luck')"], tmp_path / "log")
