"""Which optimizers stand for which kernels, and one optimizer that a schedule drives on every rank."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchrec import optim
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.sharding_plan import TableRule, Topology, sharding_plan
from recsys.training.sparse_adam import SparseAdam
from recsys.training.table_optimizers import (
    FusedTables,
    TableOptimizerError,
    adaptive_tables,
    check_fused,
    dense_parameters,
    hand_on,
    step_in_backward,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def model() -> nn.Module:
    word = EmbeddingBagConfig(name="word", embedding_dim=4, num_embeddings=9, feature_names=["word"])
    bags = EmbeddingBagCollection(tables=[word], device=torch.device("meta"))
    return nn.ModuleDict({"bags": bags, "line": nn.Linear(4, 1)})


def table(module: nn.Module) -> Any:
    return module.get_parameter("bags.embedding_bags.word.weight")


@pytest.mark.parametrize(
    ("factory", "kernel", "arguments"),
    [
        (partial(torch.optim.SGD, lr=0.5), optim.SGD, {"lr": 0.5}),
        (partial(torch.optim.Adagrad, lr=0.5, eps=0.1), optim.Adagrad, {"lr": 0.5, "eps": 0.1}),
        (partial(RowWiseAdagrad, lr=0.5, eps=0.1), optim.RowWiseAdagrad, {"lr": 0.5, "eps": 0.1}),
        (
            partial(SparseAdam, lr=0.5, betas=(0.8, 0.9), eps=0.1),
            optim.Adam,
            {"lr": 0.5, "beta1": 0.8, "beta2": 0.9, "eps": 0.1},
        ),
    ],
)
def test_a_kernel_gets_the_settings(factory, kernel, arguments) -> None:
    module = model()
    step_in_backward(module, factory)
    assert table(module)._optimizer_classes == [kernel]
    assert table(module)._optimizer_kwargs == [arguments]
    assert not hasattr(module.get_parameter("line.weight"), "_optimizer_classes")
    check_fused(module, CUDA)
    if kernel is not optim.Adam:
        check_fused(module, CPU)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (torch.optim.AdamW, "AdamW has no kernel for it; set `table_optimizer` to one of torch.optim.sgd.SGD"),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), "SGD takes no momentum: leave it 0"),
        (partial(torch.optim.SGD, lr=0.1, maximize=True), "SGD takes no maximize"),
        (partial(torch.optim.Adagrad, lr_decay=0.1), "Adagrad takes no lr_decay"),
        (partial(torch.optim.Adagrad, weight_decay=0.1), "Adagrad takes no weight_decay"),
        (partial(torch.optim.Adagrad, initial_accumulator_value=0.1), "takes no initial_accumulator_value"),
    ],
)
def test_what_no_kernel_has_is_refused(factory, message: str) -> None:
    with pytest.raises(TableOptimizerError, match=message):
        step_in_backward(model(), factory)


def test_a_table_without_optimizer_is_named() -> None:
    with pytest.raises(TableOptimizerError, match=r"`bags.embedding_bags.word.weight` has no optimizer.*step_in_back"):
        check_fused(model(), CPU)


def test_a_cpu_has_no_fused_adam() -> None:
    module = model()
    step_in_backward(module, SparseAdam)
    with pytest.raises(TableOptimizerError, match=r"no fused Adam for a CPU.*RowWiseAdagrad, or train on a GPU"):
        check_fused(module, CPU)


def test_adaptive_tables_are_those_that_a_fused_optimizer_steps_by_a_state() -> None:
    for factory, kind, expected in (
        (partial(RowWiseAdagrad, lr=0.1), "row_wise", ("word",)),
        (partial(RowWiseAdagrad, lr=0.1), "data_parallel", ()),
        (partial(torch.optim.SGD, lr=0.1), "row_wise", ()),
    ):
        module = model()
        step_in_backward(module, factory)
        plan = sharding_plan(module, Topology(), {"word": TableRule(sharding=[kind])})
        assert adaptive_tables(module, plan) == expected


def test_dense_weights_are_the_others() -> None:
    module = model()
    step_in_backward(module, partial(RowWiseAdagrad, lr=0.1))
    table(module)._in_backward_optimizers = []  # which TorchRec's shards have
    assert {id(weight) for weight in dense_parameters(module)} == {id(w) for w in module["line"].parameters()}  # type: ignore[index]


class Kernel(KeyedOptimizer):
    """Stands for the fused optimizer of one FBGEMM kernel."""

    def __init__(self, lr: float):
        super().__init__({}, {}, [{"params": [], "lr": lr}])
        self.lr = lr

    def step(self, closure: Any = None) -> None:
        (group,) = self.param_groups
        self.lr = group["lr"]


def fused(*rates: float) -> tuple[CombinedOptimizer, list[Kernel]]:
    kernels = [Kernel(rate) for rate in rates]
    return CombinedOptimizer([("a", CombinedOptimizer([(str(at), k) for at, k in enumerate(kernels)]))]), kernels


def test_a_schedule_reaches_every_kernel() -> None:
    combined, kernels = fused(0.1, 0.4, 0.1)
    tables = FusedTables(combined)
    assert [group["lr"] for group in tables.param_groups] == [0.1, 0.4]  # one group for each learning rate
    schedule = torch.optim.lr_scheduler.StepLR(tables, step_size=1, gamma=0.5)
    tables.step()
    schedule.step()
    hand_on(combined)
    assert [kernel.lr for kernel in kernels] == [0.05, 0.2, 0.05]
    schedule.step()
    hand_on(combined)
    assert [kernel.lr for kernel in kernels] == [0.025, 0.1, 0.025]


def test_learning_rates_go_through_a_checkpoint() -> None:
    saved = FusedTables(fused(0.1, 0.4)[0])
    for group in saved.param_groups:
        group["lr"] *= 0.5
    combined, kernels = fused(0.4, 0.1)
    FusedTables(combined).load_state_dict(saved.state_dict())
    hand_on(combined)
    assert [kernel.lr for kernel in kernels] == [0.2, 0.05]
    with pytest.raises(ValueError, match="checkpoint has 2 learning rates of tables, the job 1"):
        FusedTables(fused(0.1, 0.1)[0]).load_state_dict(saved.state_dict())


def test_its_step_runs_the_closure_with_gradients() -> None:
    tables = FusedTables(fused(0.1)[0])
    with torch.no_grad():
        assert tables.step(torch.is_grad_enabled) is True  # type: ignore[arg-type]
        assert tables.step() is None
