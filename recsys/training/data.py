"""The one LightningDataModule: a prepared log, its split, and training batches of sequences or of pairs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.features.datasets import Source, load_dataset
from recsys.features.event_log import EventLog
from recsys.features.pair_batches import PairBatches
from recsys.features.prepare import DEFAULT_CACHE, prepare
from recsys.features.schema import Schema
from recsys.features.slate_batches import SlateBatches
from recsys.features.slate_table import SlateTable
from recsys.features.slates import Slates
from recsys.features.splits import GlobalTime, Split, SplitRule
from recsys.unbiased.identifiability import check_identifiable, places_elsewhere
from recsys.unbiased.shown_lists import ShownLists

_CHECKED = 20_000
"""Slates of which the alarm is computed."""


class DataSourceError(ValueError):
    """The data of a job are named twice, or not at all."""


class EventLogData(L.LightningDataModule):
    """Events of a log, split, in length-bucketed batches of histories, or in batches of user-item pairs.

    The log is a data set known by name, or a schema file with the files it describes.

    Args:
        dataset: `movielens_100k` or another name that `recsys prepare --help` lists.
        schema: path of a schema file, for a log of your own.
        events: its events: a Parquet or CSV file, a folder or a glob.
        items: its side table of items, if the schema takes features from one.
        users: its side table of users, likewise.
        cache: folder of the prepared logs.
        split: the rule that says what is trained on, chosen on and tested on.
        batch_size: training sequences of a step, of all processes together.
        max_length: events of a history that a model reads, in training and later; the newest ones.
        stride: None takes one sequence a user, the newest; a number adds sequences that end that many events earlier.
        seed: of the shuffling and of the negatives.
        batches: of user-item pairs, such as `recsys.features.pair_batches.AllPairs`, for a network that knows users by
            id. None: histories.
        slates: what was shown beside what was done, for the objective `WithSlates`. None: it is not known.

    Raises:
        DataSourceError: not exactly one of `dataset` and `schema` is given, or tables beside `dataset`, or beside
            `batches` a `stride` between histories or `slates`, which they have not.
    """

    def __init__(
        self,
        dataset: str | None = None,
        schema: str | None = None,
        events: str | None = None,
        items: str | None = None,
        users: str | None = None,
        cache: str = str(DEFAULT_CACHE),
        split: SplitRule | None = None,
        batch_size: int = 128,
        max_length: int = 50,
        stride: int | None = None,
        seed: int = 0,
        batches: PairBatches | None = None,
        slates: SlateTable | None = None,
    ):
        super().__init__()
        if (dataset is None) == (schema is None):
            raise DataSourceError("name the data once: `data.dataset`, or `data.schema` with `data.events`")
        if schema is not None and events is None:
            raise DataSourceError(f"`data.schema: {schema}` needs `data.events`, the files that it describes")
        tables = {"events": events, "items": items, "users": users}
        if dataset is not None and (given := [f"`data.{name}`" for name, table in tables.items() if table is not None]):
            raise DataSourceError(f"`data.dataset: {dataset}` brings its own tables; leave out {', '.join(given)}")
        if batches is not None and stride is not None:
            raise DataSourceError("`data.batches` gives pairs, which have no histories to cut; leave out `data.stride`")
        if batches is not None and slates is not None:
            raise DataSourceError(
                "`data.batches` gives pairs, and `data.slates` needs histories; leave one of them out"
            )
        self.dataset, self.schema, self.events, self.items, self.users = dataset, schema, events, items, users
        self.cache = Path(cache)
        self.rule = split if split is not None else GlobalTime()
        self.batch_size, self.max_length, self.stride, self.seed = batch_size, max_length, stride, seed
        self.pair_batches, self.slate_table = batches, slates

    @property
    def source(self) -> Source:
        """Schema and tables of the log."""
        if self.dataset is not None:
            return load_dataset(self.dataset)
        assert self.schema is not None and self.events is not None
        return Source(Schema.from_yaml(self.schema), self.events, self.items, self.users)

    @cached_property
    def log(self) -> EventLog:
        """The prepared log, from the cache when the same sources were prepared before."""
        source = self.source
        return prepare(source.schema, source.events, source.items, source.users, cache_dir=self.cache)

    @cached_property
    def split(self) -> Split:
        """The split of the log; made once."""
        return self.rule(self.log)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What a model must know of the data."""
        if self.pair_batches is None:
            return Catalogue.from_split(self.split, self.max_length)
        try:
            exposures = self.pair_batches.exposures(self.split)
        except ValueError as error:
            raise DataSourceError(f"`data.batches`: {error}") from error
        return Catalogue.from_split(self.split, self.max_length, interactions=True, exposures=exposures)

    @cached_property
    def slates(self) -> Slates | None:
        """The slates to train on: what they were left out for is counted in their `facts`.

        Raises:
            ListDataError: the table cannot be read.
            DataSourceError: no slate is left.
        """
        if self.slate_table is None:
            return None
        slates = self.slate_table.read(self.split.log).trainable(self.split)
        slates = slates.clicked() if self.slate_table.clicked_only else slates
        if not len(slates):
            raise DataSourceError(f"`data.slates`: no slate is left to train on; left out were {slates.facts}")
        return slates

    @cached_property
    def batches(self) -> TrainingBatches | PairBatches:
        """The training batches, of this process's share.

        Raises:
            DataSourceError: several processes are to share batches of pairs, or these do not fit the split.
        """
        rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        if self.pair_batches is not None:
            if ranks > 1:
                raise DataSourceError(
                    f"`data.batches`: pairs are drawn by one process, and the job has {ranks}; set `trainer.devices: 1`"
                )
            try:
                self.pair_batches.setup(self.split, self.batch_size, self.seed)
            except ValueError as error:
                raise DataSourceError(f"`data.batches`: {error}") from error
            return self.pair_batches
        windows = self.batch_size, self.max_length, self.stride, self.seed, rank, ranks
        if self.slates is None or self.slate_table is None:
            return TrainingBatches(self.split, *windows)
        return SlateBatches(self.split, self.slates, self.slate_table.batch_size, *windows)

    def train_dataloader(self) -> TrainingBatches | PairBatches:
        """The training batches, after the alarm has looked at some of the slates."""
        if self.slates is not None:
            rows = np.random.default_rng(self.seed).permutation(len(self.slates))[:_CHECKED]
            item, click = (torch.from_numpy(values[rows]) for values in (self.slates.item, self.slates.click))
            lists = ShownLists(places_elsewhere(item.long()), click.float(), item > 0)
            check_identifiable([lists], what="where items stand in other slates")
        return self.batches

    def state_dict(self) -> dict[str, Any]:
        """Position in the data. Lightning restores a loader's own state only in mid-epoch; this one always."""
        kind = type(self.batches).__name__
        return {"batches": self.batches.state_dict(), "kind": kind, "split": self.split.hash}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues where the checkpoint was saved.

        Raises:
            DataSourceError: the checkpoint comes from other data, another split or other batches.
            ResumeError: it was saved amid an epoch of another length.
        """
        if state_dict["split"] != self.split.hash:
            raise DataSourceError(
                "the checkpoint was trained on another log or split; name its data, or start a new run"
            )
        kind = type(self.batches).__name__
        if (saved := state_dict.get("kind", kind)) != kind:  # older checkpoints do not say
            raise DataSourceError(
                f"the checkpoint was trained on {saved}, and the job on {kind}: see `data.batches` and `data.slates`"
            )
        self.batches.load_state_dict(state_dict["batches"])
