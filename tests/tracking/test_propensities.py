from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger

from recsys.models.ltr_scorer import PointwiseScorer
from recsys.models.synergen import SynerGen
from recsys.tracking.propensities import PropensityLog
from recsys.training.list_data import ListBatches
from recsys.training.listwise import ListwiseModule
from recsys.training.module import RecommenderModule
from recsys.training.objective import RetrievalObjective
from recsys.training.with_slates import WithSlates
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.click_models import PositionBased
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.inverse_propensity import NaiveClicks
from recsys.unbiased.sessions import Sessions
from recsys.unbiased.synthetic_lists import SyntheticQueries
from tests.tracking.stores import empty_store

pytestmark = pytest.mark.filterwarnings("ignore")


def fit(loss: ClickLoss, folder: Path, logger: MLFlowLogger | bool = False) -> L.Trainer:
    queries = SyntheticQueries(n_features=3).draw(20, documents=4)
    log = Sessions(queries, PositionBased()).log(64).clicked()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=logger, callbacks=[PropensityLog(folder / "run")],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(ListwiseModule(PointwiseScorer(3, ()), loss), ListBatches(log, 16))
    return trainer


def test_curves_are_kept_in_the_folder_and_in_mlflow(tmp_path: Path) -> None:
    logger = MLFlowLogger("clicks", tracking_uri=empty_store(tmp_path), artifact_location=str(tmp_path / "a"))
    loss = DualLearning(4)
    trainer = fit(loss, tmp_path, logger)
    curve = loss.relative_propensities()[0].tolist()
    assert json.loads((tmp_path / "run" / "propensities.json").read_text()) == {"all lists": curve}
    assert (tmp_path / "run" / "plots" / "propensities.png").read_bytes().startswith(b"\x89PNG")
    assert trainer.callback_metrics["propensity/position_3"].item() == pytest.approx(curve[2])
    assert "propensity/position_1" not in trainer.callback_metrics
    artifacts = {item.path for item in logger.experiment.list_artifacts(logger.run_id)}
    assert artifacts == {"propensities.json", "plots"}
    assert not list(tmp_path.glob("run/**/.*"))  # no temporary file is left


def test_each_context_has_a_curve(tmp_path: Path) -> None:
    loss = DualLearning(4, contexts=2)
    with torch.no_grad():
        loss.propensity.free[1] -= 1
    callback, module = PropensityLog(tmp_path), ListwiseModule(PointwiseScorer(3, ()), loss)
    callback.on_train_end(L.Trainer(accelerator="cpu", logger=False), module)
    table = json.loads((tmp_path / "propensities.json").read_text())
    assert table["context 0"] == [1.0] * 4 and table["context 1"][1:] == pytest.approx([0.3679] * 3, abs=1e-4)


def test_losses_over_slates_are_followed_too(tmp_path: Path) -> None:
    loss = DualLearning(3)
    with torch.no_grad():
        loss.propensity.free -= 1
    objective = WithSlates(WithSlates(RetrievalObjective(), loss), weight=0.0)
    module = RecommenderModule(SynerGen, objective.main)
    PropensityLog(tmp_path).on_train_end(L.Trainer(accelerator="cpu", logger=False), module)
    assert json.loads((tmp_path / "propensities.json").read_text())["all lists"][1:] == pytest.approx(
        [0.3679] * 2, abs=1e-4
    )
    with pytest.raises(TypeError, match="has 2"):
        PropensityLog(tmp_path).on_train_end(L.Trainer(logger=False), RecommenderModule(SynerGen, objective))


def test_losses_without_propensities_are_left_alone_and_other_modules_refused(tmp_path: Path) -> None:
    fit(NaiveClicks(), tmp_path)
    assert not (tmp_path / "run").exists()
    with pytest.raises(TypeError, match="this LightningModule has 0: train a ListwiseModule, or WithSlates"):
        PropensityLog(tmp_path).on_train_end(L.Trainer(accelerator="cpu", logger=False), L.LightningModule())
