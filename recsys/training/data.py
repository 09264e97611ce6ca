"""The one LightningDataModule: a prepared log, its split, and training batches."""

from __future__ import annotations

from functools import cached_property

import lightning as L

from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime, Split, SplitRule


class EventLogData(L.LightningDataModule):
    """Events of a log, split, in length-bucketed batches.

    Args:
        dataset: name of a data set that the package knows (`movielens_100k`, ...), or None with `schema` and `events`.
        split: the rule that says what is trained on, chosen on and tested on.
        batch_size: training sequences of a step.
        max_length: events of a training sequence; the newest ones.
        stride: None takes one sequence a user, the newest; a number adds sequences that end that many events earlier.
        seed: of the shuffling and of the negatives.
    """

    def __init__(
        self,
        log: EventLog,
        split: SplitRule | None = None,
        batch_size: int = 128,
        max_length: int = 50,
        stride: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.log = log
        self.rule = split if split is not None else GlobalTime()
        self.batch_size, self.max_length, self.stride, self.seed = batch_size, max_length, stride, seed

    @cached_property
    def split(self) -> Split:
        """The split of the log; made once."""
        return self.rule(self.log)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What a model must know of the data."""
        return Catalogue.from_split(self.split)

    @cached_property
    def batches(self) -> TrainingBatches:
        """Training batches; Lightning saves and restores their position."""
        return TrainingBatches(self.split, self.batch_size, self.max_length, self.stride, self.seed)

    def train_dataloader(self) -> TrainingBatches:
        """The training batches."""
        return self.batches
