"""A trained model with what is needed to serve it without its training log."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.jagged import offsets_of
from recsys.features.schema import Schema
from recsys.features.vocabulary import Vocabulary
from recsys.models.artefact import ArtefactError, load_model, save_model
from recsys.models.recommender import Recommender
from recsys.retrieval.topk import Jagged, TopK, recommend

_SERVING, _SCHEMA, _ITEMS, _TITLES = "serving.json", "schema.json", "vocabulary.item_id.parquet", "item_titles.parquet"
_GAP_EVENTS = 1_000_000


@dataclass(frozen=True)
class History:
    """The events of one user, oldest first.

    Attributes:
        items: `[n]` int64 item ids.
        times: `[n]` int64 Unix seconds.
        user: id of the user; 0 for one the log does not know.
    """

    items: NDArray[np.int64]
    times: NDArray[np.int64]
    user: int = 0

    @classmethod
    def of_user(cls, log: EventLog, user: int) -> History:
        """All events of a user of the log."""
        events = slice(int(log.offsets[user]), int(log.offsets[user + 1]))
        return cls(log.item_id[events].astype(np.int64), np.array(log.timestamp[events], dtype=np.int64), user)


@dataclass(frozen=True)
class Bundle:
    """A model, the names of its items, and how it wants to be asked.

    Attributes:
        model: the model.
        schema: of the log that trained it.
        items: raw item id <-> item id.
        titles: `[n_items + 1]` strings; None where the log has no titles.
        max_length: events of a history that the model reads, the newest ones; None: all.
        gap: seconds between the events of a user as a rule; stands in for times that are not known.
        fingerprint: of the log that trained it.
        split_hash: of the split that trained it.
    """

    model: Recommender
    schema: Schema
    items: Vocabulary
    titles: NDArray[np.str_] | None
    max_length: int | None
    gap: int
    fingerprint: str
    split_hash: str

    @classmethod
    def of(cls, model: Recommender, log: EventLog, split_hash: str, max_length: int | None = None) -> Bundle:
        """The bundle of a model that `log` has trained."""
        return cls(
            model, log.schema, log.items, log.item_titles, max_length, usual_gap(log), log.fingerprint, split_hash
        )

    def save(self, folder: str | Path) -> None:
        """Writes the model and what belongs to it; see `save_model`.

        Raises:
            ArtefactError: the folder holds something else, or the model cannot be saved.
        """
        facts = {
            "max_length": self.max_length,
            "gap": self.gap,
            "fingerprint": self.fingerprint,
            "split_hash": self.split_hash,
        }
        with tempfile.TemporaryDirectory() as made:
            extras: dict[str, bytes | Path] = {
                _SERVING: (json.dumps(facts, indent=2) + "\n").encode(),
                _SCHEMA: (self.schema.model_dump_json(indent=2) + "\n").encode(),
                _ITEMS: Path(made) / _ITEMS,
            }
            self.items.save(Path(made) / _ITEMS)
            if self.titles is not None:
                extras[_TITLES] = Path(made) / _TITLES
                pd.DataFrame({"title": self.titles}).to_parquet(Path(made) / _TITLES)
            save_model(self.model, folder, extras)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Bundle:
        """Reads what `save` wrote, after checking every file.

        Raises:
            ArtefactError: a file is missing or altered, or the model's class cannot be imported.
        """
        folder = Path(folder)
        # torchrec asks torch.fx something on every lookup that fx answers with a warning about its own future
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
        model = load_model(folder, device)
        for name in (_SERVING, _SCHEMA, _ITEMS):
            if not (folder / name).is_file():
                raise ArtefactError(f"{folder / name}: missing; this model was saved without what serving it needs")
        titles = folder / _TITLES
        return cls(
            model=model,
            schema=Schema.parse(json.loads((folder / _SCHEMA).read_bytes()), origin=str(folder / _SCHEMA)),
            items=Vocabulary.load(folder / _ITEMS),
            titles=pd.read_parquet(titles)["title"].to_numpy(dtype=str) if titles.is_file() else None,
            **json.loads((folder / _SERVING).read_bytes()),
        )

    def title(self, item: int) -> str:
        """What people read for an item: its title, else its raw id."""
        return str(self.items.decode([item])[0] if self.titles is None else self.titles[item])

    def history(self, items: NDArray[np.int64]) -> History:
        """A history without known times: its events stand `gap` seconds apart."""
        return History(items, np.arange(len(items), dtype=np.int64) * self.gap)

    def recommend(
        self,
        histories: Sequence[History],
        k: int,
        *,
        filter_seen: bool = True,
        allow: Tensor | None = None,
        deny: Tensor | None = None,
    ) -> TopK:
        """The k best items for each history; an empty one gets what is popular.

        Args:
            histories: B histories.
            k: number of items.
            filter_seen: leave every item of the history out, also those beyond what the model reads.
            allow: `[A]` int64, the only ids that may be given.
            deny: `[D]` int64, ids that may not be given.
        """
        kept = [h.items[-self.max_length :] if self.max_length else h.items for h in histories]
        times = [h.times[len(h.times) - len(items) :] for h, items in zip(histories, kept, strict=True)]
        device = next(iter(self.model.state().values())).device
        batch = SequenceBatch.build(
            user_id=torch.tensor([h.user for h in histories]),
            lengths=torch.tensor([len(items) for items in kept]),
            item_id=torch.from_numpy(np.concatenate(kept)),
            timestamp=torch.from_numpy(np.concatenate(times)),
        ).to(device)
        seen = Jagged(
            torch.from_numpy(np.concatenate([h.items for h in histories])),
            torch.from_numpy(offsets_of(np.array([len(h.items) for h in histories]))),
        )
        return recommend(self.model, batch, k, seen=seen if filter_seen else None, allow=allow, deny=deny)


def usual_gap(log: EventLog) -> int:
    """Median of the seconds between neighbouring events of a user, over the first million events; 0 without any."""
    times = np.asarray(log.timestamp[:_GAP_EVENTS])
    same_user = np.ones(max(len(times) - 1, 0), dtype=bool)
    first = log.offsets[1:-1]  # of each user
    same_user[first[(first > 0) & (first < len(times))] - 1] = False
    gaps = np.diff(times)[same_user]
    return int(np.median(gaps)) if len(gaps) else 0
