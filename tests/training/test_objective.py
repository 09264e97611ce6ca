"""The objective of a step against plain loops over rows and items."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from recsys.denoising.target_weights import PersonalTargetWeights, TargetWeights
from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.features.drawn_negatives import Negatives
from recsys.features.event_log import EventLog
from recsys.features.negatives import InBatch, Mixed, NegativeSampler, Popularity, Uniform
from recsys.features.pair_batch import PairBatch
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.losses.base import SampledScores
from recsys.losses.full_softmax import FullSoftmax
from recsys.losses.gbce import GBCE
from recsys.losses.info_nce import InfoNCE
from recsys.models.network import SequenceNetwork
from recsys.models.synergen import SynerGen
from recsys.training.joint_objective import JointObjective
from recsys.training.module import RecommenderModule
from recsys.training.objective import Objective, ObjectiveError, RetrievalObjective
from recsys.training.pair_objective import PairObjective
from recsys.unbiased.exposure_weights import ExposureWeights
from recsys.unbiased.propensity import ItemPower, Logged

TEMPERATURE = 0.1
SEED = 5


@pytest.fixture(scope="module")
def catalogue_and_batch() -> tuple[Catalogue, SequenceBatch]:
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(12), 7)
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 15, len(user))})
    events["timestamp"] = 1_000_000 + 60 * np.arange(len(events))
    with pytest.warns(UserWarning, match="leave_last_out"):
        split = LeaveLastOut()(EventLog.from_frame(events, Schema(name="toy")))
    return Catalogue.from_split(split), next(iter(TrainingBatches(split, 16, 50)))


@pytest.fixture(scope="module")
def network(catalogue_and_batch: tuple[Catalogue, SequenceBatch]) -> SequenceNetwork:
    torch.manual_seed(0)
    return SynerGen(catalogue_and_batch[0], width=16, layers=1, dropout=0.0).eval()


@pytest.fixture(scope="module")
def vectors(network: SequenceNetwork, catalogue_and_batch: tuple[Catalogue, SequenceBatch]) -> tuple[Tensor, Tensor]:
    """Queries `[T, d]` and all item vectors `[n_items + 1, d]`, by the methods that serve: event by event."""
    batch = catalogue_and_batch[1]
    rows = []
    for first, last in zip(batch.offsets.tolist(), batch.offsets.tolist()[1:], strict=False):
        for end in range(first + 1, last + 1):  # the history up to each event
            at = slice(first, end)
            history = SequenceBatch.build(
                torch.zeros(1, dtype=torch.int64),
                torch.tensor([end - first]),
                batch.item_id[at],
                batch.timestamp[at],
            )
            rows.append(network.user_vectors(history)[0])
    # The last dimension is the popularity that users without history get.
    return torch.stack(rows)[:, :-1], network.item_vectors()[:, :-1]


def again(sampler: NegativeSampler, catalogue: Catalogue, target: Tensor) -> Negatives:
    """What a sampler draws in the first step."""
    sampler.setup(catalogue.n_items, catalogue.counts, SEED)
    return sampler.sample(target)


def expected(vectors: tuple[Tensor, Tensor], target: Tensor, drawn: Negatives) -> float:
    """InfoNCE, row by row and negative by negative."""
    queries, items = (part.tolist() for part in vectors)
    total = 0.0
    for row, positive in enumerate(target.tolist()):

        def score(item: int, row: int = row) -> float:
            return sum(q * v for q, v in zip(queries[row], items[item], strict=True)) / TEMPERATURE

        negatives = (drawn.ids if drawn.ids.dim() == 1 else drawn.ids[row]).tolist()
        logits = []
        for column, item in enumerate(negatives):
            if item == positive:
                continue
            log_q = 0.0
            if drawn.log_q is not None:
                log_q = float(drawn.log_q.expand(len(target), len(negatives))[row, column])
            logits.append(score(item) - log_q)
        own = score(positive) - (0.0 if drawn.log_q_positive is None else float(drawn.log_q_positive[row]))
        total += math.log(math.exp(own) + sum(map(math.exp, logits))) - own
    return total / len(target)


SAMPLERS = {
    "shared": lambda: Uniform(20),
    "shared, corrected": lambda: Uniform(20, corrected=True),
    "by popularity": lambda: Popularity(20),
    "per position": lambda: Uniform(9, per_position=True),
    "per position, by popularity": lambda: Popularity(9, per_position=True),
    "in batch": lambda: InBatch(),
    "in batch, positive corrected": lambda: InBatch(10, correct_positive=True),
    "mixed": lambda: Mixed([Uniform(7), InBatch()]),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampled_objective_equals_a_loop(
    name: str,
    catalogue_and_batch: tuple[Catalogue, SequenceBatch],
    network: SequenceNetwork,
    vectors: tuple[Tensor, Tensor],
) -> None:
    catalogue, batch = catalogue_and_batch
    assert batch.target is not None
    objective = RetrievalObjective(InfoNCE(temperature=TEMPERATURE), SAMPLERS[name]())
    objective.setup(catalogue, SEED, torch.device("cpu"))
    loss, parts = objective(network, batch)
    drawn = again(SAMPLERS[name](), catalogue, batch.target)
    assert drawn.hits(batch.target) is not None, "the case must hold negatives that are the positive"
    assert loss.item() == pytest.approx(expected(vectors, batch.target, drawn), rel=1e-4)
    assert parts["loss"].item() == loss.item() and not parts["loss"].requires_grad


def test_full_softmax_equals_a_loop(
    catalogue_and_batch: tuple[Catalogue, SequenceBatch], network: SequenceNetwork, vectors: tuple[Tensor, Tensor]
) -> None:
    catalogue, batch = catalogue_and_batch
    assert batch.target is not None
    objective = RetrievalObjective(FullSoftmax(temperature=TEMPERATURE))
    objective.setup(catalogue, SEED, torch.device("cpu"))
    everything = Negatives(torch.arange(1, catalogue.n_items + 1))
    assert objective(network, batch).loss.item() == pytest.approx(expected(vectors, batch.target, everything), rel=1e-4)


def test_one_step_draws_what_the_next_does_not(
    catalogue_and_batch: tuple[Catalogue, SequenceBatch], network: SequenceNetwork
) -> None:
    catalogue, batch = catalogue_and_batch
    objective = RetrievalObjective(InfoNCE(temperature=TEMPERATURE), Uniform(5))
    objective.setup(catalogue, SEED, torch.device("cpu"))
    first, second = (objective(network, batch).loss.item() for _ in range(2))
    assert first != second


def test_losses_learn_the_size_of_the_catalogue(catalogue_and_batch: tuple[Catalogue, SequenceBatch]) -> None:
    catalogue, _ = catalogue_and_batch
    loss = GBCE()
    RetrievalObjective(loss, Uniform(4)).setup(catalogue, SEED, torch.device("cpu"))
    assert loss.n_items == catalogue.n_items


def test_gradients_reach_queries_and_items(
    catalogue_and_batch: tuple[Catalogue, SequenceBatch], network: SequenceNetwork
) -> None:
    catalogue, batch = catalogue_and_batch
    assert batch.target is not None
    objective = RetrievalObjective(InfoNCE(temperature=TEMPERATURE), Uniform(3))
    objective.setup(catalogue, SEED, torch.device("cpu"))
    network.zero_grad()
    objective(network, batch).loss.backward()
    table = next(weight for name, weight in network.named_parameters() if "item_id" in name)
    assert table.grad is not None and table.grad.is_sparse
    touched = set(table.grad.coalesce().indices()[0].tolist())
    drawn = again(Uniform(3), catalogue, batch.target).ids
    assert touched == {*batch.item_id.tolist(), *batch.target.tolist(), *drawn.tolist()}
    dense = [weight for weight in network.parameters() if weight.grad is not None and not weight.grad.is_sparse]
    assert dense and all(bool(weight.grad.abs().sum() > 0) for weight in dense if weight.grad is not None)
    network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", ["shared, corrected", "per position"])
def test_weighted_targets_equal_a_loop_and_flat_weights_change_no_bit(
    name: str, catalogue_and_batch: tuple[Catalogue, SequenceBatch], network: SequenceNetwork
) -> None:
    catalogue, batch = catalogue_and_batch
    assert batch.target is not None

    def value(target_weights: TargetWeights | None) -> tuple[float, RetrievalObjective]:
        objective = RetrievalObjective(InfoNCE(temperature=TEMPERATURE), SAMPLERS[name](), target_weights)
        objective.setup(catalogue, SEED, torch.device("cpu"))
        return objective(network, batch).loss.item(), objective

    plain, objective = value(None)
    assert value(PersonalTargetWeights(math.inf))[0] == plain and "target_weights" not in objective.random_state()
    seen: list[Tensor] = []

    class Noted(InfoNCE):
        def rows(self, scores: SampledScores) -> Tensor:
            seen.append(super().rows(scores).detach())
            return super().rows(scores)

    noted = RetrievalObjective(Noted(temperature=TEMPERATURE), SAMPLERS[name]())
    noted.setup(catalogue, SEED, torch.device("cpu"))
    noted(network, batch)
    losses, total = seen[0].double().tolist(), 0.0
    for first, last in zip(batch.offsets.tolist(), batch.offsets.tolist()[1:], strict=False):
        terms = [math.exp(-loss / 0.7) for loss in losses[first:last]]
        total += sum(
            (last - first) * term / sum(terms) * loss for term, loss in zip(terms, losses[first:last], strict=True)
        )
    weighted, objective = value(PersonalTargetWeights(0.7))
    assert weighted == pytest.approx(total / len(losses), rel=1e-5) and weighted < plain
    other = value(PersonalTargetWeights(0.7))[1]
    other.load_random_state(objective.random_state())
    with pytest.raises(ValueError, match="target_weights"):
        noted.load_random_state(objective.random_state())
    with pytest.raises(ValueError, match="FullSoftmax does not tell"):
        RetrievalObjective(FullSoftmax(), target_weights=PersonalTargetWeights())


@pytest.mark.parametrize("loss", [InfoNCE(temperature=TEMPERATURE), FullSoftmax(temperature=TEMPERATURE)])
def test_exposure_weights_are_those_of_a_loop(
    loss: InfoNCE | FullSoftmax, catalogue_and_batch: tuple[Catalogue, SequenceBatch], network: SequenceNetwork
) -> None:
    catalogue, batch = catalogue_and_batch
    assert batch.target is not None
    clip, eta = 0.6, 0.7
    weighted = RetrievalObjective(loss, Uniform(20), exposure_weights=ExposureWeights(ItemPower(eta), clip))
    weighted.setup(catalogue, SEED, torch.device("cpu"))
    found, parts = weighted(network, batch)
    theta = [(int(n) / int(catalogue.counts.max())) ** eta for n in catalogue.counts]
    weights = [1 / max(theta[item], clip) for item in batch.target.tolist()]
    total = 0.0
    for row, weight in enumerate(weights):  # the mean with weights is that of its rows, each on its own
        alone = torch.zeros_like(batch.target)
        alone[row] = batch.target[row]
        single = RetrievalObjective(loss, Uniform(20))
        single.setup(catalogue, SEED, torch.device("cpu"))
        total += weight * single(network, replace(batch, target=alone)).loss.item()
    assert found.item() == pytest.approx(total / sum(weights), rel=1e-4)
    assert parts["effective_share"].item() == pytest.approx(
        sum(weights) ** 2 / len(weights) / sum(w**2 for w in weights), rel=1e-5
    )
    clipped = sum(theta[item] < clip for item in batch.target.tolist()) / len(weights)
    assert parts["clipped_share"].item() == pytest.approx(clipped) and 0 < clipped < 1
    assert weighted.exposure_weights is not None
    assert float(weighted.exposure_weights(batch)[0].mean()) == pytest.approx(1, rel=1e-5)


def test_equal_exposure_is_no_weight_at_all(
    catalogue_and_batch: tuple[Catalogue, SequenceBatch], network: SequenceNetwork
) -> None:
    catalogue, batch = catalogue_and_batch
    losses = []
    for weights in (None, ExposureWeights(ItemPower(0.0))):
        objective = RetrievalObjective(InfoNCE(temperature=TEMPERATURE), Uniform(20), exposure_weights=weights)
        objective.setup(catalogue, SEED, torch.device("cpu"))
        losses.append(objective(network, batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_weights_that_sequences_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="clip"):
        ExposureWeights(clip=0.0)
    with pytest.raises(ValueError, match="ItemPower"):
        ExposureWeights(Logged())


@pytest.mark.parametrize("objective", [RetrievalObjective(), JointObjective()])
def test_batches_of_pairs_are_refused_with_the_remedy(network: SequenceNetwork, objective: Objective) -> None:
    pairs = PairBatch(torch.tensor([1]), torch.tensor([2]), label=torch.ones(1))
    with pytest.raises(ObjectiveError, match=r"reads a SequenceBatch, not a PairBatch: leave `data\.batches` out"):
        objective(network, pairs)


def test_a_checkpoint_of_another_objective_is_refused() -> None:
    saved = RecommenderModule(lambda catalogue: None, RetrievalObjective())  # type: ignore[arg-type,return-value]
    other = RecommenderModule(lambda catalogue: None, PairObjective())  # type: ignore[arg-type,return-value]
    checkpoint = {"generators": {}, "objective": saved._objective_parts()}
    saved.on_load_checkpoint(checkpoint)
    with pytest.raises(ObjectiveError, match=r"trained by RetrievalObjective, InfoNCE.*, and the job has PairObj"):
        other.on_load_checkpoint(checkpoint)
    other.on_load_checkpoint({"generators": {}})  # as older checkpoints are
