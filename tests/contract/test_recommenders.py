"""What every model of the package promises. A new model is tested by existing: it is found by importing all modules.

A concrete `Recommender` needs `example(split)`, a small instance that learned from the split. Models that give
everybody the same list say `personal = False` and need not know the answer on the checkerboard.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import recsys.models
from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.artefact import save_model
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.models.synergen import SynerGen
from recsys.retrieval.topk import Jagged, recommend

SIZE = 24
"""Items of the checkerboard."""

COPIES = 8
"""Users that lack the same item; fewer let a network of default size memorise its users instead."""


def subclasses(parent: type) -> Iterator[type]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


def models() -> list[type[Recommender]]:
    """Every concrete model below `recsys.models`."""
    for module in pkgutil.walk_packages(recsys.models.__path__, "recsys.models."):
        importlib.import_module(module.name)
    found = {child for child in subclasses(Recommender) if child.__module__.startswith("recsys.")}
    return sorted((child for child in found if not inspect.isabstract(child)), key=lambda child: child.__name__)


def quiet_split(log: EventLog) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the rule warns of its leak, as it should
        return LeaveLastOut()(log)


@pytest.fixture(scope="module")
def split() -> Split:
    """A checkerboard: user u likes the items of its own parity, in random order, item u % SIZE last.

    That last item is the test target: the only unseen item of the right parity. The one before it is for validation.
    """
    random = np.random.default_rng(0)
    rows = []
    for user in range(SIZE * COPIES):
        target = user % SIZE
        liked = [item for item in range(user % 2, SIZE, 2) if item != target]
        rows += [(user, item) for item in [*random.permutation(liked), target]]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame["timestamp"] = 1_000_000_000 + 3600 * np.arange(len(frame))
    return quiet_split(EventLog.from_frame(frame, Schema(name="checkerboard")))


@pytest.fixture(scope="module")
def batch(split: Split) -> SequenceBatch:
    test = split.test
    return histories(split.log, test.users, test.history_start, test.history_end)


@pytest.fixture(scope="module")
def example(split: Split) -> Callable[[type[Recommender]], Recommender]:
    """An example of each class, made once."""
    return functools.cache(lambda model_class: model_class.example(split))


@pytest.fixture(params=models(), ids=lambda model: model.__name__)
def model(request: pytest.FixtureRequest, example: Callable[[type[Recommender]], Recommender]) -> Recommender:
    return example(request.param)


def seen(batch: SequenceBatch) -> Jagged:
    return Jagged(batch.item_id, batch.offsets)


def select(batch: SequenceBatch, rows: torch.Tensor) -> SequenceBatch:
    """The rows of a batch, in the given order."""
    at = torch.cat([torch.arange(batch.offsets[row], batch.offsets[row + 1]) for row in rows])
    return SequenceBatch.build(batch.user_id[rows], batch.lengths[rows], batch.item_id[at], batch.timestamp[at])


def strangers(*items: list[int]) -> SequenceBatch:
    """Users that no log knows, with the given histories."""
    flat = torch.tensor([item for history in items for item in history], dtype=torch.int64)
    return SequenceBatch.build(
        user_id=torch.zeros(len(items), dtype=torch.int64),
        lengths=torch.tensor([len(history) for history in items], dtype=torch.int64),
        item_id=flat,
        timestamp=1_000_000_000 + torch.arange(len(flat)),
    )


def test_models_are_found() -> None:
    names = {model.__name__ for model in models()}
    assert {"Popularity", "RecentPopularity", "ALS", "BPR", "BM25", "Cosine"} <= names


def test_the_checkerboard_is_answered(model: Recommender, split: Split, batch: SequenceBatch) -> None:
    if not model.personal:
        scores = model.scores(batch)
        assert torch.equal(scores, scores[:1].expand_as(scores))
        pytest.skip("gives everybody the same list")
    target = torch.from_numpy(split.log.item_id[split.test.targets()].astype(np.int64))
    top = recommend(model, batch, 1, seen=seen(batch))
    assert torch.equal(top.items[:, 0], target)


def test_scores_are_finite_float32_and_padding_is_never_recommended(scorer: Recommender, batch: SequenceBatch) -> None:
    scores = scorer.scores(batch)
    assert scores.dtype == torch.float32 and scores.shape == (len(batch), SIZE + 1)
    assert scorer.n_items == SIZE
    assert torch.isfinite(scores[:, 1:]).all()
    assert (scores[:, 0] == -torch.inf).all()
    top = recommend(scorer, batch, SIZE)
    assert torch.equal(top.items.sort(1).values, torch.arange(1, SIZE + 1).expand(len(batch), -1))


def test_exactly_k_distinct_items_best_first_and_unseen(model: Recommender, batch: SequenceBatch) -> None:
    k = SIZE // 2
    top = recommend(model, batch, k, seen=seen(batch))
    assert top.items.shape == top.scores.shape == (len(batch), k)
    assert (top.scores.diff(dim=1) <= 0).all()
    scores = model.scores(batch)
    torch.testing.assert_close(scores.gather(1, top.items), top.scores)
    for row in range(len(batch)):
        history = set(batch.item_id[batch.offsets[row] : batch.offsets[row + 1]].tolist())
        given = top.items[row].tolist()
        assert len(set(given)) == k and 0 not in given and not history & set(given)
        rest = [item for item in range(1, SIZE + 1) if item not in history and item not in given]
        assert scores[row, rest].max() <= top.scores[row].min() + 1e-5


def test_allow_and_deny_lists(model: Recommender, batch: SequenceBatch) -> None:
    allow, deny = torch.tensor([3, 4, 9, 10]), torch.tensor([4, 11])
    allowed = recommend(model, batch, 6, allow=allow, deny=deny)
    assert torch.equal(allowed.items.sort(1).values[:, -3:], torch.tensor([[3, 9, 10]]).expand(len(batch), -1))
    assert (allowed.items == 0).sum(1).eq(3).all() and (allowed.scores == -torch.inf).sum(1).eq(3).all()
    denied = recommend(model, batch, SIZE - 2, deny=deny)
    assert not torch.isin(denied.items, deny).any() and (denied.items > 0).all()


def test_a_stranger_gets_a_full_list(scorer: Recommender) -> None:
    for batch in (strangers([]), strangers([], []), strangers([2, 4, 6], []), strangers([0, 0])):
        assert torch.isfinite(scorer.scores(batch)[:, 1:]).all()
        top = recommend(scorer, batch, 5)
        assert (top.items > 0).all() and torch.isfinite(top.scores).all()


def test_nobody_gets_no_list(scorer: Recommender) -> None:
    nobody = strangers()
    assert scorer.scores(nobody).shape == (0, SIZE + 1)
    assert recommend(scorer, nobody, 5).items.shape == (0, 5)
    if isinstance(scorer, VectorRecommender):
        assert scorer.user_vectors(nobody).shape == (0, scorer.item_vectors().shape[1])


def test_a_stranger_without_history_gets_popular_items(scorer: Recommender, split: Split) -> None:
    scores = scorer.scores(strangers([], [2, 4, 6]))
    counts = torch.from_numpy(split.train_counts())[1:]
    if scorer.personal:
        order = scores[0, 1:].argsort(descending=True)
        assert torch.equal(counts[order], counts.sort(descending=True).values)
    alone = scorer.scores(strangers([]))
    torch.testing.assert_close(alone[0], scores[0], rtol=1e-5, atol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours(scorer: Recommender, batch: SequenceBatch) -> None:
    rows = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    scores = scorer.scores(batch)
    torch.testing.assert_close(scorer.scores(select(batch, rows)), scores[rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scorer.scores(select(batch, rows[:1])), scores[rows[:1]], rtol=1e-4, atol=1e-5)


def test_a_user_is_known_by_what_the_model_says_it_reads(scorer: Recommender, batch: SequenceBatch) -> None:
    known = scorer.knows(batch.user_id)
    assert known.shape == batch.user_id.shape and known.dtype == torch.bool
    assert not scorer.knows(torch.tensor([0, 10**9])).any()
    scores, other = scorer.scores(batch), batch.user_id.flip(0)
    assert not torch.equal(other, batch.user_id)
    if not known.any():  # then ids must not change anything, or a folder without names of users would serve wrong lists
        renamed = replace(batch, user_id=other)
        torch.testing.assert_close(scorer.scores(renamed), scores)
    if not scorer.reads_history:
        without = SequenceBatch.build(
            batch.user_id, torch.zeros_like(batch.lengths), batch.item_id[:0], batch.timestamp[:0]
        )
        torch.testing.assert_close(scorer.scores(without), scores)
        assert known.all()


def test_vectors_give_the_scores(scorer: Recommender, batch: SequenceBatch) -> None:
    if not isinstance(scorer, VectorRecommender):
        pytest.skip("scores without vectors")
    items = scorer.item_vectors()
    assert items.shape[0] == SIZE + 1 and items.dtype == torch.float32
    product = scorer.user_vectors(batch) @ items.T
    torch.testing.assert_close(product[:, 1:], scorer.scores(batch)[:, 1:], rtol=1e-4, atol=1e-5)
    ids = torch.tensor([5, 1, 5])
    torch.testing.assert_close(scorer.item_vectors(ids), items[ids], rtol=1e-5, atol=1e-6)


class RankingSynerGen(SynerGen):
    """With a ranking head, not trained."""

    @classmethod
    def example(cls, split: Split) -> SynerGen:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = SynerGen(Catalogue.from_split(split), width=16, ranking=True).eval()
            assert model.head is not None
            torch.nn.init.normal_(model.head.out.weight)
            torch.nn.init.normal_(model.head.retrieval_weight)
        return model


class WordMatchingSynerGen(SynerGen):
    """Of items that share words with queries, not trained."""

    @classmethod
    def example(cls, split: Split) -> SynerGen:
        schema = {
            "name": "checkerboard",
            "events": {"query": "query"},
            "features": [
                {"name": "title", "column": "title", "type": "text", "table": "words"},
                {"name": "asked", "type": "text", "entity": "query", "table": "words"},
            ],
        }
        words = torch.arange(SIZE) % 5 + 1, torch.arange(-1, SIZE + 1).clamp(min=0)  # a word each; item 0 has none
        plain = Catalogue.from_split(split)
        catalogue = replace(
            plain, schema=Schema.parse(schema), table_rows=plain.table_rows | {"words": 6}, jagged={"title": words}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return SynerGen(catalogue, width=16, word_width=8).eval()


@pytest.fixture(params=[*models(), RankingSynerGen, WordMatchingSynerGen], ids=lambda model: model.__name__)
def scorer(request: pytest.FixtureRequest, example: Callable[[type[Recommender]], Recommender]) -> Recommender:
    """Every model, one that ranks, and one that matches words."""
    return example(request.param)


@pytest.fixture(scope="module")
def candidates(batch: SequenceBatch) -> torch.Tensor:
    """`[B, 9]` items of each user in random order, one place filled up with 0."""
    random = torch.rand(len(batch), SIZE, generator=torch.Generator().manual_seed(2))
    chosen = random.argsort(1)[:, :9] + 1
    chosen[torch.arange(len(batch)), torch.arange(len(batch)) % 9] = 0
    return chosen


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_candidates_of_a_model_that_does_not_rank_score_as_they_are_retrieved(
    scorer: Recommender, batch: SequenceBatch, candidates: torch.Tensor
) -> None:
    found, retrieval = scorer.candidate_scores(batch, candidates), scorer.scores(batch).gather(1, candidates)
    if scorer.ranks:
        assert not torch.allclose(found, retrieval, atol=1e-2), "it says that ranking knows more"
        return
    close(found, retrieval)


def test_candidate_scores_are_finite_float32_and_a_filled_up_place_scores_minus_infinity(
    scorer: Recommender, batch: SequenceBatch, candidates: torch.Tensor
) -> None:
    found = scorer.candidate_scores(batch, candidates)
    assert found.dtype == torch.float32 and found.shape == candidates.shape and not found.requires_grad
    assert torch.equal(found == -torch.inf, candidates == 0)
    assert torch.isfinite(found[candidates != 0]).all()
    nothing = scorer.candidate_scores(batch, torch.zeros_like(candidates))
    assert (nothing == -torch.inf).all()
    unknown = scorer.candidate_scores(strangers([], [2, 4]), torch.tensor([[3, 0], [0, 5]]))
    assert torch.equal(torch.isfinite(unknown), torch.tensor([[True, False], [False, True]]))


def test_a_candidate_does_not_depend_on_the_others_nor_on_their_order(
    scorer: Recommender, batch: SequenceBatch, candidates: torch.Tensor
) -> None:
    found = scorer.candidate_scores(batch, candidates)
    mixed = torch.rand(candidates.shape, generator=torch.Generator().manual_seed(3)).argsort(1)
    close(scorer.candidate_scores(batch, candidates.gather(1, mixed)), found.gather(1, mixed))
    close(scorer.candidate_scores(batch, candidates[:, 3:5]), found[:, 3:5])
    twice = scorer.candidate_scores(batch, torch.cat([candidates, candidates.flip(1)], dim=1))
    close(twice, torch.cat([found, found.flip(1)], dim=1))
    rows = torch.randperm(len(batch), generator=torch.Generator().manual_seed(4))[:7]
    close(scorer.candidate_scores(select(batch, rows), candidates[rows]), found[rows])


FRESH = """
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recsys.features.batch import SequenceBatch
from recsys.models.artefact import load_model

torch.set_num_threads(1)
root = Path(sys.argv[1])
batch = SequenceBatch.build(**load_file(root / "batch.safetensors"))
models = sorted(path for path in root.iterdir() if path.is_dir())
save_file({path.name: load_model(path).scores(batch) for path in models}, root / "scores.safetensors")
"""


@pytest.fixture(scope="module")
def fresh_scores(
    batch: SequenceBatch,
    example: Callable[[type[Recommender]], Recommender],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, torch.Tensor]:
    """Scores of every example, saved here and loaded by one new process."""
    root: Path = tmp_path_factory.mktemp("models")
    for model_class in models():
        with contextlib.suppress(Exception):  # its own tests report it; the others' must not fail with it
            save_model(example(model_class), root / model_class.__name__)
    columns = {"user_id": batch.user_id, "lengths": batch.lengths}
    columns |= {"item_id": batch.item_id, "timestamp": batch.timestamp}
    save_file({name: value.contiguous().clone() for name, value in columns.items()}, root / "batch.safetensors")
    subprocess.run([sys.executable, "-W", "ignore", "-c", FRESH, str(root)], check=True, timeout=120)
    return load_file(root / "scores.safetensors")


def test_a_saved_model_scores_the_same_in_a_fresh_process(
    model: Recommender, batch: SequenceBatch, fresh_scores: dict[str, torch.Tensor]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other process: sums are then taken in the same order
    try:
        assert torch.equal(fresh_scores[type(model).__name__], model.scores(batch))
    finally:
        torch.set_num_threads(threads)
