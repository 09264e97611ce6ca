"""Jobs with auxiliary losses: with weight 0 those without them, and resumed as if they had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recsys.features.masking import CorrelatedMasking, RandomMasking
from recsys.features.negatives import Uniform
from recsys.losses.info_nce import InfoNCE
from recsys.models.network import SequenceNetwork
from recsys.models.synergen import SynerGen
from recsys.models.two_tower import TwoTower
from recsys.training.auxiliary import Auxiliary, WithAuxiliary
from recsys.training.data import EventLogData
from recsys.training.feature_masking import FeatureMaskingSSL
from recsys.training.joint_objective import JointObjective
from recsys.training.module import RecommenderModule
from recsys.training.objective import Objective, RetrievalObjective
from recsys.training.spread_out import SpreadOut
from tests.distributed.jobs import Losses, log_data, write_log

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")
NETWORKS: dict[str, Callable[..., SequenceNetwork]] = {
    "SynerGen": partial(SynerGen, width=16, layers=1, dropout=0.2),
    "TwoTower": partial(TwoTower, width=16, hidden=(16,), dim=16, dropout=0.2),
}
DEFAULTS = {"SynerGen": "network.items.defaults", "TwoTower": "network.items.encoder.defaults"}
MAINS: dict[str, Callable[[], Objective]] = {
    "retrieval": lambda: RetrievalObjective(InfoNCE(0.1), Uniform(20)),
    "joint": lambda: JointObjective(InfoNCE(0.1), Uniform(20)),
}
TRAINED_BY = [("SynerGen", "retrieval"), ("SynerGen", "joint"), ("TwoTower", "retrieval")]


class Run(NamedTuple):
    losses: list[float]
    weights: dict[str, Tensor]
    random: Tensor
    logged: dict[str, float]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("log")
    write_log(made)
    log_data(made).setup("fit")
    return made


def auxiliaries(weight: float) -> list[Auxiliary]:
    return [FeatureMaskingSSL(RandomMasking(), weight, n=16), SpreadOut(weight, n=16)]


def fit(
    folder: Path,
    objective: Objective,
    network: str = "SynerGen",
    steps: int = 2,
    save: Path | None = None,
    resume: Path | None = None,
    **arguments: Any,
) -> Run:
    torch.manual_seed(7)
    module = RecommenderModule(partial(NETWORKS[network], **arguments), objective)
    losses = Losses()
    callbacks: list[L.Callback] = [losses]
    if save is not None:
        callbacks.append(ModelCheckpoint(save, filename="last", every_n_train_steps=steps, save_top_k=-1))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=save is not None, callbacks=callbacks, use_distributed_sampler=False,
    )  # fmt: skip
    data: EventLogData = log_data(folder)
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    logged = {name.removeprefix("train/"): float(value) for name, value in trainer.callback_metrics.items()}
    return Run(losses.values, module.state_dict(), torch.get_rng_state(), logged)


def assert_same(one: Run, other: Run, but: frozenset[str] = frozenset()) -> None:
    assert one.losses == other.losses and torch.equal(one.random, other.random)
    assert other.weights.keys() - one.weights.keys() == but
    assert all(torch.equal(other.weights[name], weight) for name, weight in one.weights.items())


@pytest.mark.parametrize(("network", "main"), TRAINED_BY)
@pytest.mark.parametrize("maskable", [False, True])
def test_with_weight_0_a_run_is_the_plain_one_bit_for_bit(
    folder: Path, network: str, main: str, maskable: bool
) -> None:
    plain = fit(folder, MAINS[main](), network)
    assert plain.losses[0] != plain.losses[1]
    found = fit(folder, WithAuxiliary(MAINS[main](), auxiliaries(0.0)), network, maskable=maskable)
    assert_same(plain, found, frozenset({DEFAULTS[network]} if maskable else ()))
    assert found.logged == plain.logged
    if maskable:  # nor do default vectors that nothing shows change anything
        assert_same(found, fit(folder, MAINS[main](), network, maskable=True))
        weighted = fit(folder, WithAuxiliary(MAINS[main](), auxiliaries(0.5)), network, maskable=True)
        assert weighted.losses != plain.losses


@pytest.mark.parametrize("network", NETWORKS)
def test_auxiliaries_leave_the_generator_of_torch_alone(folder: Path, network: str) -> None:
    """It is that of the network's dropout, of which there is none here."""
    data = log_data(folder)
    data.setup("fit")
    made = NETWORKS[network](data.catalogue, dropout=0.0, maskable=True).train()
    objective = WithAuxiliary(MAINS["retrieval"](), auxiliaries(0.5))
    objective.setup(data.catalogue, 3, CPU)
    before = torch.get_rng_state()
    assert all(float(term(made).loss) > 0 for term in objective.active)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("main", MAINS)
def test_the_loss_is_the_sum_of_all(folder: Path, main: str) -> None:
    """The objective of the task and each auxiliary alone, from the same seeds."""
    data = log_data(folder)
    data.setup("fit")
    batch = next(iter(data.batches))
    torch.manual_seed(7)
    network = SynerGen(data.catalogue, width=16, layers=1, dropout=0.0, maskable=True)
    objective = WithAuxiliary(MAINS[main](), [FeatureMaskingSSL(CorrelatedMasking(), 0.5, n=16), SpreadOut(0.25, n=16)])
    objective.setup(data.catalogue, 3, CPU)
    states = objective.random_state()
    loss, parts = objective(network, batch)
    objective.load_random_state(states)
    alone = objective.main(network, batch)
    first, second = (term(network).loss for term in objective.active)
    torch.testing.assert_close(loss, alone.loss + 0.5 * first + 0.25 * second)
    expected = {"loss": loss, "main": alone.loss, "feature_masking": first, "spread_out": second}
    assert all(torch.equal(parts[name], value.detach()) for name, value in expected.items())
    assert {name: parts[name] for name in alone.parts if name != "loss"} == {
        name: value for name, value in alone.parts.items() if name != "loss"
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_ends_as_one_that_never_stopped(folder: Path, tmp_path: Path, network: str) -> None:
    def objective() -> Objective:
        return WithAuxiliary(MAINS["retrieval"](), auxiliaries(0.5))

    whole = fit(folder, objective(), network, steps=6, maskable=True)
    fit(folder, objective(), network, steps=3, save=tmp_path, maskable=True)
    resumed = fit(folder, objective(), network, steps=6, resume=tmp_path / "last.ckpt", maskable=True)
    assert resumed.losses == whole.losses[3:]
    assert all(torch.equal(resumed.weights[name], weight) for name, weight in whole.weights.items())


def test_a_job_is_resumed_with_the_auxiliaries_that_it_had(folder: Path) -> None:
    data = log_data(folder)
    data.setup("fit")
    both = WithAuxiliary(MAINS["retrieval"](), auxiliaries(0.5))
    one = WithAuxiliary(MAINS["retrieval"](), auxiliaries(0.5)[:1])
    for objective in (both, one):
        objective.setup(data.catalogue, 0, CPU)
    with pytest.raises(ValueError, match=r"\['feature_masking', 'spread_out'\], the job \['feature_masking'\]"):
        one.load_random_state(both.random_state())


def test_auxiliaries_and_negatives_draw_apart(folder: Path) -> None:
    """No two generators of a job start alike."""
    data = log_data(folder)
    data.setup("fit")
    objective = WithAuxiliary(MAINS["joint"](), auxiliaries(0.5))
    objective.setup(data.catalogue, 0, CPU)

    def states(state: Any) -> list[bytes]:
        if isinstance(state, dict):
            return [found for part in state.values() for found in states(part)]
        return [state.numpy().tobytes()] if isinstance(state, Tensor) else []

    found = states(objective.random_state())
    assert len(found) == len(set(found)) == 6


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="`spread_out` is there twice"):
        WithAuxiliary(RetrievalObjective(), [SpreadOut(), SpreadOut(0.0)])
    for weight in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="SpreadOut: weight must be at least 0"):
            SpreadOut(weight)


def test_is_named_by_class_path() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    auxiliary = {
        "class_path": "recsys.training.feature_masking.FeatureMaskingSSL",
        "init_args": {
            "weight": 0.1,
            "masking": {"class_path": "recsys.features.masking.RandomMasking", "init_args": {"value_dropout": 0.1}},
        },
    }
    config = {
        "class_path": "recsys.training.auxiliary.WithAuxiliary",
        "init_args": {
            "main": {"class_path": "recsys.training.objective.RetrievalObjective"},
            "auxiliary": [auxiliary, {"class_path": "recsys.training.spread_out.SpreadOut"}],
        },
    }
    made = parser.instantiate(parser.parse_object({"objective": config})).objective
    assert isinstance(made, WithAuxiliary) and isinstance(made.main, RetrievalObjective)
    first, second = made.auxiliary
    assert isinstance(first, FeatureMaskingSSL) and isinstance(first.masking, RandomMasking)
    assert (first.weight, first.masking.value_dropout) == (0.1, 0.1) and isinstance(second, SpreadOut)
