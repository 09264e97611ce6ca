"""A trained model with what is needed to serve it without its training log."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.evaluation.calibration import Platt
from recsys.evaluation.scoring import device_of
from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.jagged import offsets_of
from recsys.features.query_reader import QueryReader
from recsys.features.schema import Schema
from recsys.features.sentences import SentenceModel
from recsys.features.vocabulary import Vocabulary
from recsys.models.artefact import ArtefactError, load_model, save_model
from recsys.models.recommender import Recommender
from recsys.retrieval.fusion import fuse
from recsys.retrieval.reranking import reranked
from recsys.retrieval.topk import Jagged, TopK, recommend
from recsys.tracking.history import History

SERVING, SCHEMA, ITEMS, _TITLES = "serving.json", "schema.json", "vocabulary.item_id.parquet", "item_titles.parquet"
USERS = "vocabulary.user_id.parquet"
_VOCABULARY = "vocabulary.{}.parquet"
_GAP_EVENTS = 1_000_000


class UserError(ValueError):
    """A user is named to a bundle that has no names of users."""


class QueryError(ValueError):
    """A query to a model that reads none."""


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
        queries: reads the text of queries; None where the schema has no features of queries.
        platt: makes probabilities of the scores of a model that ranks; None where none was fitted.
        users: raw user id <-> user id, of all users of the log; None where the model knows no user by id: names of
            people are kept only where they are needed.
    """

    model: Recommender
    schema: Schema
    items: Vocabulary
    titles: NDArray[np.str_] | None
    max_length: int | None
    gap: int
    fingerprint: str
    split_hash: str
    queries: QueryReader | None = None
    platt: Platt | None = None
    users: Vocabulary | None = None

    @classmethod
    def of(
        cls,
        model: Recommender,
        log: EventLog,
        split_hash: str,
        max_length: int | None = None,
        platt: Platt | None = None,
    ) -> Bundle:
        """The bundle of a model that `log` has trained."""
        return cls(
            model=model,
            schema=log.schema,
            items=log.items,
            titles=log.item_titles,
            max_length=max_length,
            gap=usual_gap(log),
            fingerprint=log.fingerprint,
            split_hash=split_hash,
            queries=QueryReader.of(log.schema, log.encoders, log.sentence_models),
            platt=platt,
            users=log.users if _knows_any(model, torch.arange(1, log.n_users + 1)) else None,
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
            "sentence_models": {n: asdict(m) for n, m in self.queries.models.items()} if self.queries else {},
            "platt": None if self.platt is None else asdict(self.platt),
        }
        with tempfile.TemporaryDirectory() as made:
            extras: dict[str, bytes | Path] = {
                SERVING: (json.dumps(facts, indent=2) + "\n").encode(),
                SCHEMA: (self.schema.model_dump_json(indent=2) + "\n").encode(),
                ITEMS: Path(made) / ITEMS,
            }
            self.items.save(Path(made) / ITEMS)
            if self.users is not None:
                extras[USERS] = Path(made) / USERS
                self.users.save(Path(made) / USERS)
            for name, vocabulary in (self.queries.vocabularies if self.queries is not None else {}).items():
                file = _VOCABULARY.format(name)
                extras[file] = Path(made) / file
                vocabulary.save(Path(made) / file)
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
        for name in (SERVING, SCHEMA, ITEMS):
            if not (folder / name).is_file():
                raise ArtefactError(f"{folder / name}: missing; this model was saved without what serving it needs")
        titles, users = folder / _TITLES, folder / USERS
        serving = json.loads((folder / SERVING).read_bytes())
        models = {name: SentenceModel(**model) for name, model in serving.pop("sentence_models", {}).items()}
        platt = serving.pop("platt", None)
        schema = Schema.parse(json.loads((folder / SCHEMA).read_bytes()), origin=str(folder / SCHEMA))
        return cls(
            model=model,
            schema=schema,
            queries=QueryReader.of(schema, _query_vocabularies(folder, schema), models),
            items=Vocabulary.load(folder / ITEMS),
            titles=pd.read_parquet(titles)["title"].to_numpy(dtype=str) if titles.is_file() else None,
            platt=None if platt is None else Platt(**platt),
            users=Vocabulary.load(users) if users.is_file() else None,
            **serving,
        )

    def title(self, item: int) -> str:
        """What people read for an item: its title, else its raw id."""
        return str(self.items.decode([item])[0] if self.titles is None else self.titles[item])

    def history(self, items: NDArray[np.int64], user: str | int | None = None) -> History:
        """A history without known times: its events stand `gap` seconds apart.

        Args:
            items: `[n]` int64 item ids, oldest first. A model that reads no history leaves them out of its lists.
            user: raw id of the user; one that the bundle does not name, and None: nobody in particular.

        Raises:
            UserError: a user is named, and the bundle has no names of users.
        """
        return History(items, np.arange(len(items), dtype=np.int64) * self.gap, 0 if user is None else self._id(user))

    def knows(self, history: History) -> bool:
        """Whether the model can tell somebody from others; False: the list is what is popular.

        One that reads histories can say something of everybody who is in the log.
        """
        if self.model.reads_history:
            return history.user > 0
        return _knows_any(self.model, torch.tensor([history.user]))

    def recommend(
        self,
        histories: Sequence[History],
        k: int,
        *,
        queries: Sequence[str | None] | None = None,
        retrieve: int | None = None,
        lexical: Recommender | None = None,
        filter_seen: bool = True,
        allow: Tensor | None = None,
        deny: Tensor | None = None,
    ) -> TopK:
        """The k best items for each history, and for its query where there is one.

        An empty history without a query gets what is popular. A model that ranks orders the best that it has retrieved.

        Args:
            histories: B histories.
            k: number of items.
            queries: B texts, None for a history whose user does not search; None: nobody does.
            retrieve: items to retrieve for the model's ranking; None: k, in the order of retrieval.
            lexical: a second source of candidates for those who search; its list and the model's are fused by rank.
            filter_seen: leave every item of the history out, also those beyond what the model reads.
            allow: `[A]` int64, the only ids that may be given.
            deny: `[D]` int64, ids that may not be given.

        Raises:
            QueryError: the model reads no queries.
        """
        batch = self.batch(histories, queries).to(device_of(self.model))
        seen = Jagged(
            torch.from_numpy(np.concatenate([h.items for h in histories])),
            torch.from_numpy(offsets_of(np.array([len(h) for h in histories]))),
        )
        n = max(retrieve or k, k)
        sources = [self.model] if lexical is None else [self.model, lexical]
        lists = [recommend(s, batch, n, seen=seen if filter_seen else None, allow=allow, deny=deny) for s in sources]
        found = lists[0] if lexical is None else fuse([found.items for found in lists], self.model.n_items, n)
        return found if retrieve is None else reranked(self.model, batch, found, k)

    def knows_no_word(self, query: str) -> bool:
        """Whether a query says nothing to the model: no table has a word of it, and no feature embeds sentences."""
        if self.queries is None:
            return False
        read, _ = self.queries.read([query])
        return not read.vectors and not any(len(values) for values, _ in read.jagged.values())

    def batch(
        self,
        histories: Sequence[History],
        queries: Sequence[str | None] | None = None,
        times: NDArray[np.int64] | None = None,
    ) -> SequenceBatch:
        """What the model reads of histories and of what is asked for, at `times` `[B]`; see `recommend`."""
        kept = [history.last(self.max_length) for history in histories]
        acted = self.schema.events.action is not None
        return SequenceBatch.build(
            user_id=torch.tensor([history.user for history in histories]),
            lengths=torch.tensor([len(history) for history in kept]),
            item_id=torch.from_numpy(np.concatenate([history.items for history in kept])),
            timestamp=torch.from_numpy(np.concatenate([history.times for history in kept])),
            extra={"action": torch.from_numpy(np.concatenate([_actions(h) for h in kept]))} if acted else None,
            request_timestamp=None if times is None else torch.from_numpy(times),
            **self._read(kept, queries),
        )

    def _id(self, user: str | int) -> int:
        if self.users is None:
            raise UserError(
                f"user `{user}`: the bundle has no names of users; its {type(self.model).__name__} knows nobody by id, "
                "or it was saved before names were kept. Leave `user` out, or save the model again"
            )
        found = int(self.users.encode([user])[0])
        return found if found <= len(self.users) else 0  # beyond are buckets of unknown ones

    def _read(self, histories: Sequence[History], asked: Sequence[str | None] | None) -> dict[str, Any]:
        """The queries of histories and requests, as fields of a batch; an event's query is read by its text."""
        if asked is not None and len(asked) != len(histories):
            raise ValueError(f"{len(histories)} histories need as many queries (None for none), not {len(asked)}")
        if self.queries is None:
            if any(asked or ()):
                raise QueryError(
                    "the model reads no queries: train one on a log whose schema has a feature with `entity: query`"
                )
            return {}
        past = [text for h in histories for text in (h.queries if h.queries is not None else [None] * len(h))]
        queries, rows = self.queries.read([*past, *(asked or ())])
        query, request = torch.from_numpy(rows).tensor_split([len(past)])
        return {"queries": queries, "query": query, "request_query": None if asked is None else request}


def _knows_any(model: Recommender, users: Tensor) -> bool:
    return bool(model.knows(users.to(device_of(model))).any())


def _actions(history: History) -> NDArray[np.int64]:
    """The actions of a history, 0 where nothing is known."""
    return np.zeros(len(history), dtype=np.int64) if history.actions is None else history.actions


def _query_vocabularies(folder: Path, schema: Schema) -> dict[str, Vocabulary]:
    """The vocabularies of the tables that features of queries feed."""
    tables = {feature.table for feature in schema.of("query") if feature.table and not schema.table(feature).buckets}
    files = {str(table): folder / _VOCABULARY.format(table) for table in tables}
    for file in files.values():
        if not file.is_file():
            raise ArtefactError(f"{file}: missing; without it the model cannot read queries. Save the model again")
    return {table: Vocabulary.load(file) for table, file in files.items()}


def usual_gap(log: EventLog) -> int:
    """Median of the seconds between neighbouring events of a user, over the first million events; 0 without any."""
    times = np.asarray(log.timestamp[:_GAP_EVENTS])
    same_user = np.ones(max(len(times) - 1, 0), dtype=bool)
    first = log.offsets[1:-1]  # of each user
    same_user[first[(first > 0) & (first < len(times))] - 1] = False
    gaps = np.diff(times)[same_user]
    return int(np.median(gaps)) if len(gaps) else 0
