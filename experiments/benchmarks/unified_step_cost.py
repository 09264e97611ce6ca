"""Time of a training step that learns recommendation, search and ranking, over one that learns recommendation alone.

The same batches of a search log in turns, one thread of torch each, so that whatever else the machine does hits all
alike; sums over the batches after the first five. `total` is the cost of the added parts on equal histories;
`per_token` divides by the tokens that pass through the decoder, of which the joint step has more.

    python experiments/search_logs.py search_beauty
    python experiments/benchmarks/unified_step_cost.py
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from typing import Any

import torch
from _record import ratio, record
from _steps import Step, training_step

from recsys.cli.allocator import keep_freed_memory
from recsys.features.batch import SequenceBatch
from recsys.features.negatives import Uniform
from recsys.features.splits import LeaveLastOut
from recsys.losses.hybrid import Hybrid
from recsys.losses.info_nce import InfoNCE
from recsys.models.synergen import SynerGen
from recsys.training.data import EventLogData
from recsys.training.joint_objective import JointObjective
from recsys.training.objective import Objective, RetrievalObjective
from recsys.training.slot_negatives import SlotNegatives

WARM_UP, NEGATIVES, SLOTS, PER_SLOT = 5, 2048, 32, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    keep_freed_memory()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(given.threads)
    data = EventLogData("search_beauty", split=LeaveLastOut())
    steps = {
        "recommendation": training(data, RetrievalObjective(*retrieval())),
        "search": training(data, JointObjective(*retrieval()), queries=True),
        "random": training(data, joint(hard=0.0), queries=True, ranking=True),
        "hard": training(data, joint(hard=0.5), queries=True, ranking=True),
    }
    seconds = dict.fromkeys(steps, 0.0)
    tokens = dict.fromkeys(steps, 0)
    for place, batch in enumerate(itertools.islice(iter(data.batches), given.steps)):
        for name, step in steps.items():
            started = time.perf_counter()
            step(batch)
            if place >= WARM_UP:
                seconds[name] += time.perf_counter() - started
                tokens[name] += decoder_tokens(batch, name)
    base = "recommendation"
    ratios: dict[str, Any] = {}
    for name in ("search", "random", "hard"):
        ratios[f"{name}/total"] = ratio(seconds[name], seconds[base], "s")
        each = {part: seconds[part] / tokens[part] * 1e6 for part in (name, base)}
        ratios[f"{name}/per_token"] = ratio(each[name], each[base], "us per token")
        print(name, ratios[f"{name}/total"], ratios[f"{name}/per_token"], flush=True)
    settings = {"negatives": NEGATIVES, "ranking_slots": SLOTS, "negatives_of_a_slot": PER_SLOT, "steps": given.steps}
    path = record("unified_step_cost", ratios, settings=settings | {"threads": given.threads}, tokens=tokens)
    print(f"written: {path.name}")


def retrieval() -> tuple[InfoNCE, Uniform]:
    """Loss and negatives of every side."""
    return InfoNCE(temperature=0.05), Uniform(NEGATIVES)


def joint(hard: float) -> JointObjective:
    """The objective with all parts."""
    loss, negatives = retrieval()
    return JointObjective(loss, negatives, Hybrid(), SlotNegatives(PER_SLOT, hard=hard), SLOTS)


def decoder_tokens(batch: SequenceBatch, name: str) -> int:
    """Events and slots that pass through the decoder in one step."""
    assert batch.target_query is not None
    searches = 0 if name == "recommendation" else int((batch.target_query > 0).sum())
    ranked = SLOTS * (1 + PER_SLOT) if name in ("random", "hard") else 0
    return len(batch.timestamp) + searches + ranked


def training(data: EventLogData, objective: Objective, queries: bool = False, ranking: bool = False) -> Step:
    """A training step."""
    torch.manual_seed(0)
    return training_step(SynerGen(data.catalogue, width=128, dropout=0.5, queries=queries, ranking=ranking), objective)


if __name__ == "__main__":
    main()
