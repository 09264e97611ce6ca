"""Batches of shown lists, and the data module that reads them from a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from recsys.features.epochs import Epochs
from recsys.features.list_table import ListDataError
from recsys.unbiased.identifiability import check_identifiable
from recsys.unbiased.logged_lists import LoggedLists
from recsys.unbiased.shown_lists import ShownLists

_CHECKED = 20_000
"""Lists of which the alarm is computed."""


class ListBatches(Epochs):
    """Endless supply of epochs over logged lists; one `iter` is one epoch, in an order of the seed and the epoch alone.

    Several processes share each batch as in `TrainingBatches`: what one of them gets for a short, last batch may be a
    list without documents, which adds nothing.

    Args:
        log: the lists.
        batch_size: lists of a step, of all processes together.
        seed: of the order.
        rank: this process.
        ranks: number of processes.

    Raises:
        ValueError: the batch size is below 1, or there are no lists.
    """

    def __init__(self, log: LoggedLists, batch_size: int = 256, seed: int = 0, rank: int = 0, ranks: int = 1):
        if batch_size < 1 or not len(log):
            raise ValueError(f"{len(log)} lists in batches of {batch_size}: both are at least 1")
        self.log, self.batch_size, self.seed, self.rank, self.ranks = log, batch_size, seed, rank, ranks

    def __len__(self) -> int:
        return -(-len(self.log) // self.batch_size)

    def __iter__(self) -> Iterator[ShownLists]:
        order = torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(len(self.log)))
        for place in self.places():
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            own = rows[self.rank :: self.ranks]
            if len(own):
                yield self.log.lists(own)
            else:
                idle = self.log.lists(rows[:1])
                yield idle._replace(click=torch.zeros_like(idle.click), mask=torch.zeros_like(idle.mask))


class ListData(L.LightningDataModule):
    """Shown lists of a Parquet file or a DataFrame: a row for each document that was shown.

    Args:
        lists: path of the file, or the table itself.
        features: columns of numbers; None: all columns that are named nowhere else.
        query_id: column that tells the lists apart.
        position: column of the positions, from 1.
        click: column of 0 and 1.
        context: column of int from 0, the situation a list was shown in. None: one.
        batch_size: lists of a step, of all processes together; weights are normalised over it, so at least 128.
        clicked_only: leave out lists without clicks, which teach softmax losses nothing; `RegressionEM` needs them.
        seed: of the order.

    Raises:
        ListDataError: the file cannot be read as a table of shown lists; raised where it is read.
    """

    def __init__(
        self,
        lists: str | pd.DataFrame,
        features: Sequence[str] | None = None,
        query_id: str = "query_id",
        position: str = "position",
        click: str = "click",
        context: str | None = None,
        batch_size: int = 256,
        clicked_only: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        self.lists, self.features, self.context = lists, features, context
        self.query_id, self.position, self.click = query_id, position, click
        self.batch_size, self.clicked_only, self.seed = batch_size, clicked_only, seed

    @cached_property
    def log(self) -> LoggedLists:
        """The lists, read once; those without clicks are left out here."""
        frame, origin = self._frame()
        log = LoggedLists.from_frame(
            frame, self.features, self.query_id, self.position, self.click, self.context, origin
        )
        if not self.clicked_only:
            return log
        clicked = log.clicked()
        if not len(clicked):
            raise ListDataError(f"{origin}: none of {len(log)} lists has a click")
        return clicked

    def _frame(self) -> tuple[pd.DataFrame, str]:
        if isinstance(self.lists, pd.DataFrame):
            return self.lists, "the table"
        if not Path(self.lists).exists():
            raise ListDataError(f"{self.lists}: no such file or folder")
        wanted = None
        if self.features is not None:
            named = [self.query_id, self.position, self.click, *([self.context] if self.context else [])]
            there = pq.ParquetDataset(self.lists).schema.names
            wanted = [name for name in [*named, *self.features] if name in there]  # what lacks is named by the reader
        return pd.read_parquet(self.lists, columns=wanted), str(self.lists)

    @property
    def n_features(self) -> int:
        """F."""
        return self.log.n_features

    @property
    def positions(self) -> int:
        """Of the longest list."""
        return self.log.positions

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[F]` of the features over the documents, for `PointwiseScorer.standardise`."""
        return self.log.documents.mean(0), self.log.documents.std(0, correction=0)

    @cached_property
    def batches(self) -> ListBatches:
        """The batches of this process."""
        rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return ListBatches(self.log, self.batch_size, self.seed, rank, ranks)

    def train_dataloader(self) -> ListBatches:
        """The batches, after the alarm has looked at some lists."""
        some = torch.randperm(len(self.log), generator=torch.Generator().manual_seed(self.seed))[:_CHECKED]
        check_identifiable(self.log.lists(part) for part in some.split(1024))
        return self.batches

    def state_dict(self) -> dict[str, Any]:
        """Position in the data."""
        return self.batches.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where the checkpoint was saved."""
        self.batches.load_state_dict(state_dict)
