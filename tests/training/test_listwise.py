"""The trainer of lists against a hand-written loop, and what must last from step to step."""

from __future__ import annotations

import copy
import math
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from recsys.models.ltr_scorer import PointwiseScorer
from recsys.training.list_data import ListBatches, ListData
from recsys.training.listwise import ListwiseModule
from recsys.unbiased.click_models import PositionBased
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.inverse_propensity import NaiveClicks
from recsys.unbiased.sessions import Sessions
from recsys.unbiased.synthetic_lists import SyntheticQueries

pytestmark = pytest.mark.filterwarnings("ignore")


def sessions(seed: int = 0) -> Sessions:
    world = SyntheticQueries(n_features=4, seed=1)
    queries = world.draw(50, documents=12)
    return Sessions(queries.in_order(world.production_scores(queries), 5), PositionBased(), batch_size=32, seed=seed)


def module(largest_weight: float | None = None) -> ListwiseModule:
    torch.manual_seed(0)
    return ListwiseModule(PointwiseScorer(4, hidden=(8,)), DualLearning(5, largest_weight=largest_weight))


def trainer(folder: Path, **arguments: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, **(quiet | {"enable_checkpointing": False} | arguments))


def by_loop(steps: int, clip: float | None, fresh_optimizers: bool = False) -> ListwiseModule:
    """Two optimizers and two norms by hand."""
    made = module()
    parts = [list(made.scorer.parameters()), list(made.loss.parameters())]
    optimizers = [torch.optim.Adagrad(part, lr=0.05) for part in parts]
    for lists in islice(sessions(), steps):
        if fresh_optimizers:
            optimizers = [torch.optim.Adagrad(part, lr=0.05) for part in parts]
        for optimizer in optimizers:
            optimizer.zero_grad()
        made.loss(made.scorer(lists.features), lists).loss.backward()
        for part in parts:
            if clip is not None:
                nn.utils.clip_grad_norm_(part, clip)
        for optimizer in optimizers:
            optimizer.step()
    return made


def assert_equal(first: ListwiseModule, second: ListwiseModule) -> None:
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("clip", [None, 0.05])
def test_trains_as_two_optimizers_with_a_norm_of_their_own_do(clip: float | None, tmp_path: Path) -> None:
    """Adagrad remembers the gradients of all steps: optimizers that are made anew at each step go another way."""
    made = module()
    trainer(tmp_path, max_steps=12, gradient_clip_val=clip).fit(made, sessions())
    assert_equal(made, by_loop(12, clip))
    other = by_loop(12, clip, fresh_optimizers=True)
    assert not torch.allclose(made.loss.propensity.free, other.loss.propensity.free)


def test_the_norm_of_one_part_does_not_shrink_the_other() -> None:
    made = module()
    lists = next(iter(sessions()))
    made.loss(made.scorer(lists.features) * 100, lists).loss.backward()
    alone = copy.deepcopy(made.loss.propensity.free.grad)
    assert alone is not None and alone.norm() < 5
    made.configure_gradient_clipping(made.configure_optimizers(), 5.0, "norm")
    norms = [math.hypot(*(w.grad.norm().item() for w in part.parameters())) for part in (made.scorer, made.loss)]
    assert norms[0] == pytest.approx(5.0, rel=1e-4) and torch.equal(made.loss.propensity.free.grad, alone)
    made.configure_gradient_clipping(made.configure_optimizers(), 0.01, "value")
    assert max(w.grad.abs().max().item() for w in made.parameters()) <= 0.01


def test_a_resumed_training_ends_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    log = sessions().log(200)
    rows = (log.place >= 0).nonzero()
    frame = pd.DataFrame(log.documents[log.place.flatten()].numpy(), columns=list("abcd"))
    frame = frame.assign(query_id=rows[:, 0], position=rows[:, 1] + 1, click=log.click.flatten().numpy())
    whole, resumed = module(), module()
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    first = trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[save])
    first.fit(whole, datamodule=ListData(frame, batch_size=32))
    data = ListData(frame, batch_size=32)
    assert len(data.batches) < 7 < 2 * len(data.batches)  # in the middle of the last epoch
    then = trainer(tmp_path, max_epochs=2)
    then.fit(resumed, datamodule=data, ckpt_path=tmp_path / "step=7.ckpt")
    assert_equal(resumed, whole)
    assert then.callback_metrics == first.callback_metrics


def test_losses_without_parameters_train_the_scorer_alone(tmp_path: Path) -> None:
    made = ListwiseModule(PointwiseScorer(4, hidden=()), NaiveClicks())
    before = copy.deepcopy(made.state_dict())
    fit = trainer(tmp_path, max_steps=2, gradient_clip_val=1.0)
    fit.fit(made, sessions())
    assert list(made.configure_optimizers().optimizers) == ["scorer"]
    assert not torch.equal(before["scorer.layers.0.weight"], made.state_dict()["scorer.layers.0.weight"])


def test_parts_of_the_loss_are_logged(tmp_path: Path) -> None:
    log = sessions().log(100)
    made, fit = module(largest_weight=1.0), trainer(tmp_path, max_epochs=1)
    fit.fit(made, ListBatches(log.clicked(), 16))
    assert {"train/loss", "train/ranker", "train/propensity"} <= fit.callback_metrics.keys()
    assert 0 < fit.callback_metrics["train/clipped_relevance"] < 1


def test_other_features_than_the_scorer_was_made_for_are_refused() -> None:
    with pytest.raises(ValueError, match="3 features, and the scorer was made for 4"):
        module()(torch.zeros(2, 5, 3))
