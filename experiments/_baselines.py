"""Fits, chooses and judges one baseline in a process of its own; `study.py` starts it.

Settings are chosen on the validation users. Under `leave_last_out_refit`, which has none, they are chosen on the strict
split, and the choice is fitted once more on the refit split. On a search log it is judged in each task, and by how it
orders drawn candidates.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from _ranking import rank, wanted
from _row import BASELINES, REFIT, SEARCH_BASELINES, SPLITS, STRICT

from recsys.cli.allocator import keep_freed_memory

CLASSES = BASELINES | SEARCH_BASELINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--protocol", required=True, choices=SPLITS)
    parser.add_argument("--model", required=True, choices=CLASSES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    run(arguments.dataset, arguments.protocol, arguments.model, arguments.seed, arguments.folder)


def run(dataset: str, protocol: str, model: str, seed: int, folder: Path) -> None:
    """Leaves a run folder with the record and the evaluations."""
    from recsys.evaluation.baselines import baselines, select
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.tasks import tasks_of
    from recsys.features.datasets import load_dataset
    from recsys.features.prepare import DEFAULT_CACHE, prepare
    from recsys.tracking.record import RunRecord
    from recsys.tracking.run_folder import RunFolder
    from recsys.training.usage import Work

    source = load_dataset(dataset)
    log = prepare(source.schema, source.events, source.items, source.users)
    rule, choosing_rule = split_rule(protocol), split_rule(STRICT if protocol == REFIT else protocol)
    split = rule(log)
    name = CLASSES[model]
    record = RunRecord.of(
        name=f"{dataset}/{protocol}",
        model=name,
        config={},
        split=split,
        rule=rule,
        log_folder=DEFAULT_CACHE / log.fingerprint,
        seeds={"model": seed},
    )
    choosing = split if protocol != REFIT else choosing_rule(log)
    candidates = [candidate for candidate in baselines(choosing, seed) if type(candidate).__name__ == name]
    choice = select(candidates, choosing)[name]
    if protocol == REFIT:
        choice = replace(choice, model=type(choice.model)(**choice.model.config()))
        choice.model.fit(split)
    record.config = {
        "class": name,
        "init_args": choice.model.config(),
        "validation": choice.value,
        "tried": choice.tried,
    }
    for task in tasks_of(split):
        RunFolder(folder).save_evaluation(evaluate(choice.model, split, task=task, name=name))
    rank(choice.model, split, wanted(folder, name), name)
    record.measure(Work())
    record.status = "finished"
    record.write(folder)
    print(json.dumps(record.config["init_args"]))


def split_rule(protocol: str):
    """The rule of a protocol."""
    import importlib

    module, _, name = SPLITS[protocol]["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**SPLITS[protocol].get("init_args", {}))


if __name__ == "__main__":
    main()
