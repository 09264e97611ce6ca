from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from jsonargparse import ArgumentParser
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import Split, UserHoldout
from recsys.models import implicit_models
from recsys.models.als import ALS
from recsys.models.bpr import BPR
from recsys.models.interactions import training_matrix
from recsys.models.item_item import BM25, TFIDF, Cosine, ItemItem
from recsys.models.recommender import FittedRecommender

USERS, ITEMS = 60, 40


@pytest.fixture(scope="module")
def split() -> Split:
    """Users with tastes, histories of 2 to 39 events with repeats; some users and some items are not in training."""
    random = np.random.default_rng(0)
    taste = np.exp(2 * random.standard_normal((USERS, 3)) @ random.standard_normal((3, ITEMS)))
    lengths = random.integers(2, ITEMS, USERS)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), lengths),
            "item_id": np.concatenate(
                [random.choice(ITEMS, n, p=row / row.sum()) for n, row in zip(lengths, taste, strict=True)]
            ),
            "timestamp": 1_000_000_000 + np.arange(lengths.sum()),
        }
    )
    frame.loc[len(frame)] = [USERS, ITEMS, 2_000_000_000]  # an item that nobody else has
    frame.loc[len(frame)] = [USERS, 0, 2_000_000_001]
    log = EventLog.from_frame(frame, Schema(name="tastes"))
    return UserHoldout(share=0.2, validation_share=0.0, seed=3)(log)


@pytest.fixture(scope="module")
def batch(split: Split) -> SequenceBatch:
    """The whole history of every user, held-out users among them."""
    users = np.arange(1, split.log.n_users + 1)
    return histories(split.log, users, split.log.offsets[users], split.log.offsets[users + 1])


def history_matrix(batch: SequenceBatch, known: np.ndarray, counts: bool) -> csr_matrix:
    """`[B, n_items]` by a plain loop; column `i - 1` is item i."""
    dense = np.zeros((len(batch), len(known) - 1), np.float32)
    for row, (start, end) in enumerate(zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True)):
        for item in batch.item_id[start:end].tolist():
            if known[item]:
                dense[row, item - 1] = dense[row, item - 1] + 1 if counts else 1
    return csr_matrix(dense)


def fitted(model: FittedRecommender, split: Split) -> FittedRecommender:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # implicit warns of BLAS threads when they are not limited
        model.fit(split)
    return model


# ---- ALS


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("factors", [4, 8, 64])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0])
def test_als_folds_histories_in_as_the_library_does(
    split: Split, batch: SequenceBatch, factors: int, alpha: float, counts: bool
) -> None:
    model = fitted(ALS(factors, alpha=alpha, iterations=3, counts=counts, regularization=0.1), split)
    library = AlternatingLeastSquares(factors, 0.1, alpha, iterations=3, random_state=0)
    with threadpool_limits(1, "blas"):
        library.fit(training_matrix(split, counts), show_progress=False)
        np.testing.assert_allclose(model.state()["item_factors"][1:], library.item_factors, rtol=1e-5, atol=1e-6)
        known = split.train_counts() > 0
        expected = library.recalculate_user(np.arange(len(batch)), history_matrix(batch, known, counts))
    vectors = model.user_vectors(batch)
    assert vectors.dtype == torch.float32
    np.testing.assert_allclose(vectors[:, :-1], expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("factors", [4, 16, 64])
def test_als_solves_the_normal_equations(split: Split, batch: SequenceBatch, factors: int) -> None:
    """float64 closed form; histories are shorter and longer than the number of factors."""
    alpha, regularization = 3.0, 0.05
    model = fitted(ALS(factors, regularization, alpha, iterations=2, counts=True), split)
    items = model.state()["item_factors"].numpy()[1:].astype(np.float64)
    counts = history_matrix(batch, split.train_counts() > 0, counts=True).toarray()
    for vector, row in zip(model.user_vectors(batch).numpy(), counts, strict=True):
        confidence = np.where(row > 0, alpha * row, 1.0)
        normal = items.T @ (confidence[:, None] * items) + regularization * np.eye(factors)
        expected = np.linalg.solve(normal, items.T @ (confidence * (row > 0)))
        np.testing.assert_allclose(vector[:-1], expected, rtol=1e-4, atol=1e-6)
        assert vector[-1] == (row.sum() == 0)


def test_als_forgets_what_it_kept_of_earlier_factors(split: Split, batch: SequenceBatch) -> None:
    model = fitted(ALS(8, seed=1), split)
    first = model.user_vectors(batch)
    model.seed = 2
    other = fitted(model, split).user_vectors(batch)
    assert torch.equal(other, fitted(ALS(8, seed=2), split).user_vectors(batch))
    assert not torch.equal(other, first)


# ---- BPR


def test_bpr_keeps_the_librarys_scores_of_the_users_it_was_fitted_to(split: Split, batch: SequenceBatch) -> None:
    model = fitted(BPR(8, iterations=5), split)
    library = BayesianPersonalizedRanking(8, 0.01, 0.01, iterations=5, num_threads=1, random_state=0)
    with threadpool_limits(1, "blas"):
        library.fit(training_matrix(split), show_progress=False)
    trained = (split.train_end > split.train_start)[1:]
    assert 0 < trained.sum() < len(trained)
    expected = library.user_factors @ library.item_factors.T
    np.testing.assert_allclose(model.scores(batch)[:, 1:][trained], expected[trained], rtol=1e-5, atol=1e-6)


def test_bpr_takes_the_mean_item_of_users_it_does_not_know(split: Split, batch: SequenceBatch) -> None:
    model = fitted(BPR(8, iterations=5), split)
    items, known = model.state()["item_factors"].numpy(), split.train_counts() > 0
    trained = split.train_end > split.train_start
    stranger = next(user for user in range(1, split.log.n_users + 1) if not trained[user])
    own = [item for item in set(split.log.item_id[slice(*split.log.offsets[stranger : stranger + 2])]) if known[item]]
    mean = items[own].mean(axis=0)
    mean[-1] = 1  # the last dimension of items is their bias
    np.testing.assert_allclose(model.scores(batch)[stranger - 1, 1:], items[1:] @ mean, rtol=1e-5, atol=1e-6)
    beyond = SequenceBatch.build(
        torch.tensor([10_000]), batch.lengths[stranger - 1 : stranger], *_events(batch, stranger - 1)
    )
    assert torch.equal(model.user_vectors(beyond), model.user_vectors(batch)[stranger - 1 : stranger])


def _events(batch: SequenceBatch, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    inside = slice(int(batch.offsets[row]), int(batch.offsets[row + 1]))
    return batch.item_id[inside], batch.timestamp[inside]


# ---- item-item


@pytest.mark.parametrize("model", [BM25, TFIDF, Cosine])
def test_no_neighbour_is_refused(model: type[FittedRecommender]) -> None:
    with pytest.raises(ValueError, match="neighbours must be at least 1, not 0"):
        model(neighbours=0)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize(
    ("model", "library"),
    [
        (BM25(neighbours=6, k1=1.5, b=0.3), BM25Recommender(K=6, K1=1.5, B=0.3)),
        (Cosine(neighbours=6), CosineRecommender(K=6)),
        (TFIDF(neighbours=6), TFIDFRecommender(K=6)),
    ],
)
def test_item_item_scores_as_the_library_does(
    split: Split, batch: SequenceBatch, model: ItemItem, library: BM25Recommender, counts: bool
) -> None:
    model.counts = counts
    scores = fitted(model, split).scores(batch)[:, 1:].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.fit(training_matrix(split, counts), show_progress=False)
    history = history_matrix(batch, split.train_counts() > 0, counts)
    for row in range(len(batch)):
        items, expected = library.recommend(0, history[row], N=ITEMS, filter_already_liked_items=False)
        similar = items[expected > 0]
        np.testing.assert_allclose(scores[row, similar], expected[expected > 0], rtol=1e-5)
        assert set(np.flatnonzero(scores[row] > 0)) == set(similar)


def test_items_without_a_similar_one_follow_by_popularity(split: Split, batch: SequenceBatch) -> None:
    scores = fitted(Cosine(neighbours=3), split).scores(batch)[:, 1:]
    popularity = torch.from_numpy(split.train_counts()[1:]).float().expand_as(scores)
    rest = scores < 0
    assert rest.any() and (scores > 0).any()
    torch.testing.assert_close(scores[rest], popularity[rest] - popularity.max() - 1)


# ---- all of them


@pytest.mark.parametrize("model", [ALS(8), BPR(8, iterations=3), BM25(), Cosine(), TFIDF()])
def test_a_history_without_a_trained_item_is_ranked_by_popularity(split: Split, model: FittedRecommender) -> None:
    counts = torch.from_numpy(split.train_counts())
    cold = torch.nonzero(counts[1:] == 0)[:, 0] + 1
    assert len(cold)
    nothing = SequenceBatch.build(
        torch.zeros(2, dtype=torch.int64), torch.tensor([0, len(cold)]), cold, torch.zeros_like(cold)
    )
    for row in fitted(model, split).scores(nothing):
        assert torch.isfinite(row[1:]).all()
        assert torch.equal(counts[row[1:].argsort(descending=True) + 1], counts[1:].sort(descending=True).values)


def test_a_fit_is_reproducible(split: Split, batch: SequenceBatch) -> None:
    for make in (lambda: ALS(8), lambda: BPR(8, iterations=3)):
        assert torch.equal(fitted(make(), split).scores(batch), fitted(make(), split).scores(batch))


def test_models_are_configured_by_class_path() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=FittedRecommender)
    chosen = {"class_path": "recsys.models.als.ALS", "init_args": {"factors": 16, "alpha": 2.0}}
    model = parser.instantiate(parser.parse_object({"model": chosen})).model
    assert isinstance(model, ALS)
    assert model.config() == {
        "factors": 16,
        "regularization": 0.01,
        "alpha": 2.0,
        "iterations": 15,
        "counts": False,
        "seed": 0,
    }


@pytest.mark.parametrize("model", [ALS, BM25, BPR, TFIDF, Cosine])
def test_models_saved_under_the_former_import_path_are_found(model: type[FittedRecommender]) -> None:
    assert getattr(implicit_models, model.__name__) is model
