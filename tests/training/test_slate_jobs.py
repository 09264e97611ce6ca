"""Jobs that rank from slates: neutral settings, checkpoints, optimizers, YAML, and what they refuse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint

from recsys.features.negatives import Uniform
from recsys.features.pair_batches import AllPairs
from recsys.features.slate_table import SlateTable
from recsys.features.splits import LeaveLastOut
from recsys.losses.info_nce import InfoNCE
from recsys.losses.pointwise import Pointwise
from recsys.models.synergen import SynerGen
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.data import DataSourceError, EventLogData
from recsys.training.joint_objective import JointObjective
from recsys.training.module import RecommenderModule
from recsys.training.objective import Objective
from recsys.training.spread_out import SpreadOut
from recsys.training.with_slates import WithSlates
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.identifiability import PositionConfounded
from recsys.unbiased.regression_em import RegressionEM
from tests.distributed.jobs import Losses
from tests.features.slates import LONGEST, schema, shown, tables

pytestmark = pytest.mark.filterwarnings("ignore")
LOSSES: dict[str, Callable[[], ClickLoss]] = {
    "em": lambda: RegressionEM(LONGEST),
    "dual": lambda: DualLearning(LONGEST),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("log")
    events, items = tables()
    events.to_parquet(made / "events.parquet")
    items.to_parquet(made / "items.parquet")
    shown(80).to_parquet(made / "slates.parquet")
    (made / "schema.yaml").write_text(yaml.safe_dump(schema().model_dump(mode="json", exclude_defaults=True)))
    return made


def data(folder: Path, slates: bool = True, **arguments: Any) -> EventLogData:
    files = {name: str(folder / f"{name}.parquet") for name in ("events", "items")}
    table = SlateTable(str(folder / "slates.parquet"), batch_size=6, query="query") if slates else None
    made = {"split": LeaveLastOut(), "batch_size": 4, "slates": table, "cache": str(folder / "cache")} | arguments
    return EventLogData(schema=str(folder / "schema.yaml"), **files, **made)


def fit(
    folder: Path,
    objective: Objective,
    slates: bool = True,
    steps: int = 3,
    save: Path | None = None,
    resume: Path | None = None,
    clip: float | None = None,
) -> tuple[RecommenderModule, list[float], dict[str, float]]:
    torch.manual_seed(7)
    module = RecommenderModule(partial(SynerGen, width=16, layers=1, dropout=0.2, ranking=True), objective)
    losses = Losses()
    callbacks: list[L.Callback] = [losses]
    if save is not None:
        callbacks.append(ModelCheckpoint(save, "{step}", every_n_train_steps=2, save_top_k=-1))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=save is not None, callbacks=callbacks, use_distributed_sampler=False,
        gradient_clip_val=clip,
    )  # fmt: skip
    trainer.fit(module, datamodule=data(folder, slates), ckpt_path=resume)
    return module, losses.values, {name: float(value) for name, value in trainer.callback_metrics.items()}


def main() -> JointObjective:
    return JointObjective(InfoNCE(0.1), Uniform(20), Pointwise(), ranking_slots=4)


def test_without_weight_a_run_is_that_of_the_task_bit_for_bit(folder: Path) -> None:
    plain, losses, _ = fit(folder, main(), slates=False, clip=0.5)
    for slates in (False, True):
        module, same, _ = fit(folder, WithSlates(main(), DualLearning(LONGEST), 0.0), slates, clip=0.5)
        assert same == losses
        for name, weight in plain.network.state_dict().items():
            assert torch.equal(weight, module.network.state_dict()[name]), name
        assert torch.equal(module.objective.loss.relative_propensities(), torch.ones(1, LONGEST))
    module, other, logged = fit(folder, WithSlates(main(), DualLearning(LONGEST)))
    assert other[0] != losses[0] and not torch.equal(
        module.objective.loss.relative_propensities(), torch.ones(1, LONGEST)
    )
    wanted = {"loss", "ranker", "propensity", "clipped_relevance", "position_r2"}
    assert {f"train/slates_{name}" for name in wanted} <= logged.keys()


@pytest.mark.parametrize("loss", ["dual", "em"])
def test_propensities_survive_a_checkpoint(folder: Path, tmp_path: Path, loss: str) -> None:
    """Stopped after two steps and resumed: losses, weights, propensities and means of a run that was not."""
    whole, losses, logged = fit(folder, WithSlates(main(), LOSSES[loss]()), save=tmp_path / "a")
    resumed, rest, again = fit(folder, WithSlates(main(), LOSSES[loss]()), resume=tmp_path / "a" / "step=2.ckpt")
    assert rest == losses[2:]
    assert again == logged and logged["train/loss"] != pytest.approx(rest[-1])
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    curve = whole.objective.loss.relative_propensities()
    assert curve is not None and not torch.equal(curve, torch.ones_like(curve))


def test_propensities_have_an_optimizer_and_a_norm_of_their_own(folder: Path) -> None:
    def rate(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.5)

    whole = WithAuxiliary(WithSlates(main(), DualLearning(LONGEST), propensity_optimizer=rate), [SpreadOut(0.1, n=8)])
    module, _, _ = fit(folder, whole, steps=1)
    module.trainer = None  # type: ignore[assignment]
    optimizers = module.configure_optimizers().optimizers
    free = whole.main.loss.propensity.free  # type: ignore[union-attr]
    assert [w is free for w in optimizers["propensity"].param_groups[0]["params"]] == [True]
    assert isinstance(optimizers["propensity"], torch.optim.SGD)
    assert not any(w is free for w in optimizers["dense"].param_groups[0]["params"])
    free.grad = torch.full_like(free, 0.01)
    dense = [w for group in optimizers["dense"].param_groups for w in group["params"]]
    for weight in dense:
        weight.grad = torch.ones_like(weight)
    module.configure_gradient_clipping(module.configure_optimizers(), 0.5, "norm")
    assert torch.equal(free.grad, torch.full_like(free, 0.01))  # below the bound
    assert math.sqrt(sum(float(w.grad.square().sum()) for w in dense)) == pytest.approx(0.5, rel=1e-3)


def test_a_job_is_described_in_yaml(folder: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(RecommenderModule, "model")
    parser.add_class_arguments(EventLogData, "data")
    config = {
        "model": {
            "network": {"class_path": "recsys.models.synergen.SynerGen", "init_args": {"width": 16, "ranking": True}},
            "objective": {
                "class_path": "recsys.training.with_slates.WithSlates",
                "init_args": {
                    "main": {"class_path": "recsys.training.joint_objective.JointObjective"},
                    "loss": {
                        "class_path": "recsys.unbiased.dual_learning.DualLearning",
                        "init_args": {"positions": LONGEST},
                    },
                    "weight": 0.5,
                    "propensity_optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                },
            },
        },
        "data": {
            "schema": str(folder / "schema.yaml"),
            "events": str(folder / "events.parquet"),
            "slates": {
                "class_path": "recsys.features.slate_table.SlateTable",
                "init_args": {"slates": str(folder / "slates.parquet"), "query": "query"},
            },
        },
    }
    made = parser.instantiate_classes(parser.parse_object(config))
    assert isinstance(made.model.objective, WithSlates) and made.model.objective.weight == 0.5
    assert made.data.slate_table.query == "query"


def test_a_job_is_refused_that_has_no_slates_left_or_no_histories(folder: Path) -> None:
    late = data(folder)
    late.slate_table = SlateTable(pd.read_parquet(folder / "slates.parquet").assign(timestamp=2_000_000))
    with pytest.raises(DataSourceError, match=r"no slate is left.*'late': 80"):
        _ = late.slates
    with pytest.raises(DataSourceError, match=r"`data\.batches` gives pairs, and `data\.slates`"):
        data(folder, batches=AllPairs())


def test_a_checkpoint_of_other_batches_is_refused(folder: Path) -> None:
    state = data(folder, slates=False).state_dict()
    with pytest.raises(DataSourceError, match=r"trained on TrainingBatches, and the job on SlateBatches.*data.slates"):
        data(folder).load_state_dict(state)


def test_slates_that_stand_in_one_order_are_warned_of(folder: Path) -> None:
    """The production ranker here shows items by their number."""
    frame = pd.read_parquet(folder / "slates.parquet")
    ordered = frame.assign(position=frame.groupby("request_id")["item_id"].rank().astype(int))

    def of(table: pd.DataFrame) -> EventLogData:
        made = data(folder, slates=False)
        made.slate_table = SlateTable(table, batch_size=6, clicked_only=False)
        return made

    assert np.ptp(ordered["position"]) == LONGEST - 1
    with pytest.warns(PositionConfounded, match="where items stand in other slates"):
        of(ordered).train_dataloader()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PositionConfounded)
        of(frame).train_dataloader()
