"""The comparison of LightGCN at toy size, with a stand-in for the peer."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import _side
import numpy as np
import pandas as pd
import pytest
from _ours_lightgcn import log_of, train
from lightgcn_epoch import SETTINGS, compare, products, speed, task_arrays

from recsys.features.training_pairs import TrainingPairs

TOY: dict[str, Any] = SETTINGS | {"width": 8, "batch": 32, "steps": 2, "threads": 1}
PEER = """
import sys
sys.path.append({peers!r})
from _side import Channel, StepTurns, Task

channel, task = Channel(), Task.from_command_line()
steps = -(-len(task.train.items) // task.settings["batch"])
turns = StepTurns(channel, task.settings["steps"], {{"steps_per_epoch": steps, "edges": {edges}}})
while True:
    turns.at_step()
"""


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingPairs:
    """Some hundred pairs in place of the data set."""
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where prepared logs are kept
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": random.integers(0, 30, 400), "item_id": random.integers(0, 40, 400)})
    frame = frame.drop_duplicates(ignore_index=True)
    frame["split"] = np.where(random.random(len(frame)) < 0.8, "train", "test")
    (tmp_path / "gowalla").mkdir()
    frame.to_parquet(tmp_path / "gowalla" / "interactions.parquet")
    return TrainingPairs.of(log_of(TOY).split)


class Asked:
    """A channel that asks for some turns."""

    def __init__(self, turns: int) -> None:
        self.turns, self.told = turns, []  # type: ignore[var-annotated]

    def wait(self) -> list[str]:
        self.turns -= 1
        if self.turns < 0:
            raise SystemExit
        return ["steps"]

    def tell(self, **facts: Any) -> None:
        self.told.append(facts)


def test_our_side_trains_over_epochs_and_says_what_it_does(pairs: TrainingPairs) -> None:
    channel = Asked(turns=len(pairs) // 32)
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        warnings.simplefilter("ignore")
        train(channel, log_of(TOY), TOY)  # type: ignore[arg-type]
    facts, *turns = channel.told
    assert facts["steps_per_epoch"] == -(-len(pairs) // 32) and facts["edges"] == 2 * len(pairs)
    assert len(turns) == len(pairs) // 32 and all(turn["seconds"] > 0 for turn in turns)  # two epochs, all but


def programs(tmp_path: Path, *edges: int) -> dict[str, list[str]]:
    made = {}
    for name, of_side in zip(("ours", "recbole"), edges, strict=True):
        script = tmp_path / f"{name}.py"
        script.write_text(PEER.format(peers=str(Path(_side.__file__).parent), edges=of_side))
        made[name] = [sys.executable, str(script)]
    return made


def test_sides_take_turns_on_the_same_pairs(pairs: TrainingPairs, tmp_path: Path) -> None:
    sides = compare(programs(tmp_path, 7, 7), pairs, TOY, turns=3)
    assert [side["steps_per_epoch"] for side in sides.values()] == [-(-len(pairs) // 32)] * 2
    assert all(len(side["seconds"]) == 3 and side["peak_rss_mib"] > 1 for side in sides.values())


def test_sides_that_do_other_work_are_not_compared(pairs: TrainingPairs, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="edges differ"):
        compare(programs(tmp_path, 7, 8), pairs, TOY, turns=2)


def test_the_peer_gets_the_items_of_each_user(pairs: TrainingPairs) -> None:
    arrays = task_arrays(pairs)
    train = _side.Sequences(arrays["train_items"], arrays["train_offsets"])
    expected = [pairs.items[pairs.users == user].tolist() for user in pairs.active_users]
    assert [train[row].tolist() for row in range(len(train))] == expected


def test_an_epoch_is_as_many_median_steps_as_it_has() -> None:
    found = speed([9.0, 2.0, 4.0, 3.0], {"steps_per_epoch": 100}, {"steps": 10}, pairs=600)
    assert found["seconds_per_epoch"] == 30 and found["pairs_per_s"] == 20


def test_products_are_timed_in_turns(pairs: TrainingPairs) -> None:
    entry = products(pairs, TOY, repeats=3)
    assert entry["ours"] >= 0 and entry["unit"] == "s"  # type: ignore[operator]
