from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.list_table import ListDataError
from recsys.training.list_data import ListBatches, ListData
from recsys.unbiased.identifiability import PositionConfounded


def table(lists: int = 10, seed: int = 0) -> pd.DataFrame:
    """Lists of 1 to 4 documents; the first feature is the number of the list."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 5, lists)
    query = np.repeat(np.arange(lists), lengths)
    position = np.concatenate([np.arange(1, n + 1) for n in lengths])
    noise = random.normal(size=len(query))
    click = (random.random(len(query)) < 0.5).astype(int)
    return pd.DataFrame({"query_id": query, "position": position, "click": click, "a": query * 1.0, "b": noise})


def seen(batches: ListBatches) -> list[list[int]]:
    """The lists of each batch of an epoch."""
    return [batch.features[:, 0, 0].int().tolist() for batch in batches]


def test_every_list_once_an_epoch_in_an_order_of_its_own() -> None:
    batches = ListData(table(), batch_size=4, clicked_only=False).batches
    first, second = seen(batches), seen(batches)
    assert [len(batch) for batch in first] == [4, 4, 2] == [4] * (len(batches) - 1) + [2]
    assert sorted(itertools.chain(*first)) == list(range(10)) == sorted(itertools.chain(*second))
    assert first != second
    assert first == seen(ListData(table(), batch_size=4, clicked_only=False).batches)
    assert first != seen(ListData(table(), batch_size=4, clicked_only=False, seed=1).batches)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_resumed_reader_goes_on_with_the_next_list(after: int) -> None:
    whole = ListData(table(), batch_size=4, clicked_only=False)
    expected = list(itertools.islice(itertools.chain.from_iterable(seen(whole.batches) for _ in range(3)), 6))
    stopped = ListData(table(), batch_size=4, clicked_only=False)
    epochs = itertools.chain.from_iterable(itertools.repeat(stopped.batches))
    for _ in itertools.islice(epochs, after):
        pass
    resumed = ListData(table(), batch_size=4, clicked_only=False)
    resumed.load_state_dict(stopped.state_dict())
    rest = itertools.islice(itertools.chain.from_iterable(itertools.repeat(resumed.batches)), 6 - after)
    assert [batch.features[:, 0, 0].int().tolist() for batch in rest] == expected[after:]


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_each_batch(ranks: int) -> None:
    log = ListData(table(9), clicked_only=False).log
    alone = list(ListBatches(log, 4))
    shared = zip(*(ListBatches(log, 4, rank=rank, ranks=ranks) for rank in range(ranks)), strict=True)
    for whole, parts in zip(alone, shared, strict=True):
        own = torch.cat([part.features[:, 0, 0][part.mask[:, 0]] for part in parts])
        assert sorted(own.tolist()) == sorted(whole.features[:, 0, 0].tolist())
        assert sum(part.click.sum() for part in parts) == whole.click.sum()


def test_moments_are_those_of_the_documents() -> None:
    frame = table()
    mean, deviation = ListData(frame, clicked_only=False).moments()
    np.testing.assert_allclose(mean, frame[["a", "b"]].mean(), rtol=1e-5)
    np.testing.assert_allclose(deviation, frame[["a", "b"]].std(ddof=0), rtol=1e-5)


def test_files_are_read_and_faults_name_them(tmp_path: Path) -> None:
    path = tmp_path / "clicks.parquet"
    table().to_parquet(path)
    data = ListData(str(path), features=["b"])
    assert (data.n_features, data.positions) == (1, int(table()["position"].max()))
    assert bool(data.log.click.any(dim=1).all())
    with pytest.raises(ListDataError, match=r"clicks.parquet: no column \['c'\]"):
        ListData(str(path), features=["c"]).log  # noqa: B018
    with pytest.raises(ListDataError, match=r"nowhere.parquet: no such file"):
        ListData(str(tmp_path / "nowhere.parquet")).log  # noqa: B018
    with pytest.raises(ListDataError, match="none of 10 lists has a click"):
        ListData(table().assign(click=0)).log  # noqa: B018


def test_lists_whose_features_tell_the_position_are_warned_of() -> None:
    frame = table(50)
    with pytest.warns(PositionConfounded):
        ListData(frame.assign(score=-frame["position"])).train_dataloader()
