"""Where features tell of each other, learning them from the catalogue finds new items that events alone do not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted_catalogue import LENGTH, SCHEMA, Planted, main, planted_catalogue

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.slices import recall_by_group
from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.negatives import InBatch
from recsys.features.splits import LeaveLastOut, Split
from recsys.losses.info_nce import InfoNCE
from recsys.models.two_tower import TwoTower
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.feature_masking import FeatureMaskingSSL
from recsys.training.objective import RetrievalObjective
from recsys.training.optimizers import table_parameters
from recsys.training.sparse_adam import SparseAdam

EPOCHS = 20
SEEDS = (0, 1, 2)


def split_of(planted: Planted) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LeaveLastOut()(EventLog.from_frame(planted.events, SCHEMA, planted.items))


def recalls(split: Split, seed: int, weight: float) -> list[float]:
    """Recall@10 of new items after every fifth epoch; the two trainings differ in the weight of the term alone."""
    catalogue = Catalogue.from_split(split, LENGTH)
    torch.manual_seed(seed)
    network = TwoTower(catalogue, width=32, hidden=(64,), dim=32, maskable=True, hide_untrained_ids=True)
    task = RetrievalObjective(InfoNCE(temperature=0.07), InBatch(corrected=True))
    objective = WithAuxiliary(task, [FeatureMaskingSSL(weight=weight)])
    objective.setup(catalogue, seed, torch.device("cpu"))
    tables = table_parameters(network)
    of_tables = {id(table) for table in tables}
    dense = [weights for weights in network.parameters() if id(weights) not in of_tables]
    optimizers = [torch.optim.Adam(dense, lr=1e-3), SparseAdam(tables, lr=1e-3)]
    batches, found = TrainingBatches(split, 128, LENGTH, seed=seed), []
    for epoch in range(1, EPOCHS + 1):
        for batch in batches:
            loss, _ = objective(network, batch)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        if epoch % 5 == 0:
            groups = recall_by_group(evaluate(network, split, ks=(10,), top=10), 10).set_index("slice")
            found.append(float(groups.loc["cold", "recall"]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_new_items_are_found_by_what_the_catalogue_tells_of_their_kind(seed: int) -> None:
    """The task alone is taken at the best of its epochs, the term at its last."""
    split = split_of(planted_catalogue(seed))
    base, masked = recalls(split, seed, 0.0), recalls(split, seed, 0.3)
    assert masked[-1] > 1.2 * max(base), f"{masked} and {base}"
    assert max(base) > 3 * 10 / split.log.n_items, "the task alone is better than chance"


def test_targets_are_determined_by_the_shelf() -> None:
    planted = planted_catalogue(3)
    whole = planted_catalogue(3, complete=True)
    pd.testing.assert_frame_equal(planted.events, whole.events)
    shelf = whole.items["shelf"].to_numpy(dtype=np.int64)
    of_events = shelf[planted.events["item_id"]].reshape(-1, LENGTH)
    own = of_events[:, -1:]
    kept = (of_events[:, :-1] == own).mean()
    assert 0.9 - 4 * np.sqrt(0.09 / of_events.size) < kept < 0.93, "nine in ten, and by chance some of the others"
    tells = whole.items.groupby("kind")[["shelf", "department"]].nunique()
    assert (tells == 1).all().all() and whole.items.groupby("shelf")["department"].nunique().max() == 1


def test_new_items_are_last_events_alone_and_filed_under_their_kind_alone() -> None:
    planted = planted_catalogue(4)
    last = planted.events["timestamp"] == (LENGTH - 1) * 3600
    is_new = planted.events["item_id"].isin(planted.new)
    assert not is_new[~last].any() and 0.3 < is_new[last].mean() <= 0.5
    new = planted.items["item_id"].isin(planted.new)
    told = planted.items[["department", "shelf"]].notna()
    assert not told[new].any().any() and told[~new].all().all()
    assert set(planted.items.loc[new, "kind"]) <= set(planted.items.loc[~new, "kind"])
    assert split_of(planted).facts["test_cold_item_events"] >= is_new.sum()


def test_files_are_those_of_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["planted_catalogue", str(tmp_path / "made"), "--seed", "5"])
    main()
    planted = planted_catalogue(5)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "made/events.parquet"), planted.events)
    assert len(pd.read_parquet(tmp_path / "made/items.parquet")) == 1500
