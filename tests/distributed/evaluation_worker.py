"""One rank of a job with sharded tables: trains, validates, and writes down what evaluation, ranker and export gave.

Started by `test_sharded_evaluation.py` through torch.distributed.run, with the folder to write to as its argument.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.evaluation.diagnostics import RepresentationDiagnostics
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation
from recsys.evaluation.validation import RankingValidation
from recsys.features.batching import histories
from recsys.features.negatives import Uniform
from recsys.features.splits import GlobalTime
from recsys.models.synergen import SynerGen
from recsys.retrieval import blocks
from recsys.retrieval.item_export import gather_item_vectors
from recsys.retrieval.order import Jagged, TopK
from recsys.retrieval.sharded import ShardedRanker, is_sharded
from recsys.retrieval.topk import Ranker
from recsys.training.data import EventLogData
from recsys.training.module import RecommenderModule
from recsys.training.objective import RetrievalObjective
from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.sharding_plan import TableRule
from recsys.training.torchrec_strategy import TorchRecStrategy

ITEMS = 90
SCHEMA = """
name: toy
events: {query: query}
features:
  - {name: tags, column: tags, type: categorical_list}
  - {name: title, column: title, type: text, table: words}
  - {name: asked, type: text, entity: query, table: words}
"""
CALLS = (
    {"k": 5},
    {"k": 40, "seen": True},
    {"k": 70, "seen": True, "deny": True},
    {"k": 7, "allow": True},
    {"k": 100, "everything": True},
)
"""What the ranker is asked, once by one process and once by all ranks together; a slice has 30 or 45 items."""


def write_log(folder: Path) -> None:
    """61 users, four of whom come at the end and have no history; half of the events answer one of five queries."""
    random = np.random.default_rng(0)
    words = ["red", "green", "blue", "white", "old"]
    weight = 1.0 / np.arange(10, ITEMS + 10)
    events = pd.DataFrame(
        {
            "user_id": np.append(random.integers(0, 57, 1200), np.arange(57, 61).repeat(5)),
            "item_id": np.append(random.choice(ITEMS, 1130, p=weight / weight.sum()), np.arange(ITEMS)),
            "timestamp": np.append(random.integers(1, 1_000, 1200), np.arange(980, 1_000)),
        }
    )
    events["query"] = np.where(random.random(len(events)) < 0.5, random.choice(words, len(events)), None)
    tags = [sorted(map(str, random.choice(12, random.integers(1, 4), replace=False))) for _ in range(ITEMS)]
    titles = [" ".join(random.choice(words, 2, replace=False)) for _ in range(ITEMS)]
    events.to_parquet(folder / "events.parquet")
    pd.DataFrame({"item_id": np.arange(ITEMS), "tags": tags, "title": titles}).to_parquet(folder / "items.parquet")
    (folder / "schema.yaml").write_text(SCHEMA)


def data_of(folder: Path) -> EventLogData:
    return EventLogData(
        schema=str(folder / "schema.yaml"),
        events=str(folder / "events.parquet"),
        items=str(folder / "items.parquet"),
        cache=str(folder / "cache"),
        split=GlobalTime(0.2, 0.2),
        batch_size=16,
        max_length=8,
    )


network = partial(SynerGen, width=16, layers=1, heads=2, dropout=0.0, ranking=True, word_width=8)


def evaluations(model: SynerGen, data: EventLogData) -> dict[str, Evaluation]:
    """Every way in which a model is judged; `test` and `reranked` leave a rank without requests at the end."""
    judge = partial(evaluate, model, data.split, ks=(5, 10), max_length=data.max_length, batch_users=9, top=20)
    return {
        "test": judge(),
        "unfiltered": judge(filter_seen=False),
        "strangers": judge(which="test_cold_users", tie_seed=3),
        "search": judge(task="search"),
        "reranked": judge(task="search", rerank=30, batch_users=10),
        "long": judge(top=100, rerank=None),
    }


def bring(data: EventLogData, rows: np.ndarray, call: dict[str, Any]) -> tuple[Any, dict[str, Jagged]]:
    """A batch of test users, and the lists that a call of the ranker takes for them."""
    test, log = data.split.test, data.log
    batch = histories(log, test.users[rows], test.history_start[rows], test.history_end[rows], data.max_length)
    lists = {}
    if "seen" in call:
        lists["seen"] = [log.item_id[test.history_start[row] : test.history_end[row]].tolist() for row in rows]
    if "everything" in call:
        lists["seen"] = [list(range(1, log.n_items + 1)) for _ in rows]
    if "deny" in call:
        lists["deny"] = [list(range(1, int(row) + 3)) for row in rows]
    if "allow" in call:
        lists["allow"] = [list(range(int(row) + 1, int(row) + 20)) for row in rows]
    return batch, {name: _jagged(rows) for name, rows in lists.items()}


def _jagged(rows: list[list[int]]) -> Jagged:
    values = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return Jagged(values, torch.tensor([0, *np.cumsum([len(row) for row in rows])], dtype=torch.int64))


def answers(ranker: Ranker | ShardedRanker, data: EventLogData, rows: np.ndarray) -> list[TopK]:
    found = []
    for call in CALLS:
        batch, lists = bring(data, rows, call)
        found.append(ranker(batch, call["k"], **lists))
    return found


def whole(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a module, tables put together on rank 0."""
    made = {}
    for name, weight in weights.items():
        if isinstance(weight, ShardedTensor):
            made[name] = torch.zeros(weight.size())
            weight.gather(0, made[name] if dist.get_rank() == 0 else None)
        else:
            made[name] = weight.detach().clone()
    return made


def trained(data: EventLogData) -> tuple[RecommenderModule, dict[str, Any]]:
    """A module after a fit that early stopping ended, and what this rank knows of it."""
    validation, diagnostics = RankingValidation(k=10), RepresentationDiagnostics()
    stopping = EarlyStopping("val/NDCG@10", mode="max", patience=0, min_delta=0.0)
    rules = {name: TableRule(sharding=[kind]) for name, kind in {"item_id": "row_wise", "tags": "table_wise"}.items()}
    trainer = L.Trainer(
        max_epochs=30,
        accelerator="cpu",
        devices=dist.get_world_size(),
        strategy=TorchRecStrategy(rules=rules),
        callbacks=[diagnostics, validation, stopping],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    torch.manual_seed(3)
    module = RecommenderModule(
        network,
        RetrievalObjective(negatives=Uniform(20)),
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        table_optimizer=partial(RowWiseAdagrad, lr=0.1),
    )
    trainer.fit(module, datamodule=data)
    facts = {
        "history": validation.history,
        "diagnostics": diagnostics.history,
        "logged": {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
        "epochs": trainer.current_epoch,
    }
    return module, facts


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    blocks._ITEM_BLOCK = 16  # several blocks a slice
    data = data_of(folder)
    module, facts = trained(data)
    model = module.network
    assert isinstance(model, SynerGen) and model.head is not None
    assert is_sharded(model)
    model.eval()
    for part in (model.head.out, model.head.hidden):
        nn.init.normal_(part.weight, generator=torch.Generator().manual_seed(5))
    found = evaluations(model, data)
    # Rank 0 brings nobody, rank 1 eleven users, and rank 2 four.
    rows = np.split(np.arange(15), [0, 11])[rank]
    lists = answers(ShardedRanker(model, deny=torch.tensor([4])), data, rows)
    vectors = gather_item_vectors(model, torch.device("cpu"), memory_gib=1)
    assert (vectors is None) == (rank > 0)
    try:
        gather_item_vectors(model, torch.device("cpu"), memory_gib=1e-6)
    except ValueError as error:
        facts["refused"] = str(error)
    torch.save({"rows": rows, "lists": [tuple(top) for top in lists]}, folder / f"lists{rank}.pt")
    np.savez(folder / f"ranked{rank}.npz", **{name: evaluation.ranked for name, evaluation in found.items()})
    facts["means"] = {name: evaluation.means() for name, evaluation in found.items()}
    (folder / f"facts{rank}.json").write_text(json.dumps(facts))
    weights = whole(model.state_dict())
    if rank == 0:
        torch.save({"weights": weights, "vectors": vectors}, folder / "model.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
