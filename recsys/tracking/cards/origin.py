"""Sections on where a model comes from: what it is, its data, its training, and how it is loaded."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from recsys.documents.document import LEAST, Block, Code, Facts, Line, Listing, Picture, Section, clipped
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.tracking.cards.saved_model import SavedModel
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder

_VERSIONS = ("recsys", "python", "torch", "torchrec")
MISSING: Line = ("missing",)


def model_section(record: RunRecord, saved: SavedModel | str) -> Section:
    """What the model is and what made it.

    Args:
        record: of its run.
        saved: the model, or why there is none to be read.
    """
    if isinstance(saved, str):
        about: list[tuple[str, Line]] = [("model", ("missing: ", clipped(saved)))]
    else:
        about = [
            ("class", (Code(saved.class_path),)),
            ("size", (f"{saved.size_bytes / 2**20:,.1f} MiB, {saved.values:,} numbers in the weights",)),
            ("users", ("known by id, raw ids are among its files" if saved.names_users else "known by history alone",)),
        ]
    versions = [f"{name} {record.versions[name]}" for name in _VERSIONS if name in record.versions]
    others = [f"{name} {version}" for name, version in record.versions.items() if name not in _VERSIONS]
    command = [*(Path(word).name for word in record.command[:1]), *record.command[1:]]
    about += [
        ("run", (Code(clipped(record.name)), f", started {record.started}, {record.status}")),
        (
            "command",
            (Code(clipped(shlex.join(command))),),
        ),
        ("revision", _revision(record)),
        ("versions", (", ".join(versions),)),
    ]
    return Section("Model", (Facts(tuple(about)),), (Facts((("further versions", (", ".join(others),)),)),))


def data_section(record: RunRecord, saved: SavedModel | str, evaluation_set: EvaluationSet | None) -> Section:
    """What it was trained on, how that was split, and which requests were frozen.

    Args:
        record: of the run.
        saved: the model, or why there is none to be read.
        evaluation_set: that the run has left; None: none.
    """
    data, split, facts = record.data, record.split, record.split["facts"]
    counts = data["facts"]
    rows: list[tuple[str, Line]] = [
        ("name", (Code(clipped(data["name"])), ", fingerprint ", Code(data["fingerprint"][:12]))),
        ("log", (", ".join(_count(counts, name, words) for name, words in _LOG.items()),)),
    ]
    if not isinstance(saved, str):
        described = [(entity, [feature.name for feature in saved.schema.of(entity)]) for entity in ("item", "user")]
        told = [f"{entity}s by {', '.join(names)}" for entity, names in described if names]
        rows.append(("described", (clipped("; ".join(told) or "nothing but events"),)))
    rows += [
        ("split", (Code(split["rule"]), ", hash ", Code(split["hash"][:12]))),
        ("training", (", ".join(_count(facts, f"train_{name}", name) for name in ("events", "users", "items")),)),
        ("evaluation set", MISSING if evaluation_set is None else _frozen(evaluation_set)),
    ]
    further = {name: value for name, value in counts.items() if name not in _LOG} | facts
    details: list[tuple[str, Line]] = [
        ("rule", (Code(split["class_path"]), " with ", Code(clipped(json.dumps(split["init_args"]))))),
        ("whole fingerprint", (Code(data["fingerprint"]),)),
        ("whole hash of the split", (Code(split["hash"]),)),
        *((name.replace("_", " "), (f"{value:,}",)) for name, value in further.items()),
    ]
    return Section("Data", (Facts(tuple(rows)),), (Facts(tuple(details)),))


_LOG = {"events_kept": "events", "users": "users", "items": "items"}


def training_section(folder: RunFolder, pictures: Sequence[Picture]) -> Section:
    """What the training took.

    Args:
        folder: of the run.
        pictures: of the training.
    """
    record, usage = folder.record, folder.record.usage
    machine = record.machine
    gpus = ", ".join(machine.get("gpus") or ()) or "no GPU"
    rows: list[tuple[str, Line]] = [
        ("took", (_amount(usage, "train_s", "s of training"), ", ", _amount(usage, "wall_s", "s in all"))),
        ("memory", (_amount(usage, "peak_rss_mib", "MiB at most"), *_gpu_memory(usage))),
        ("machine", (f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, {gpus}",)),
        ("seeds", (", ".join(f"{name} {seed}" for name, seed in record.seeds.items()),)),
        ("epochs", _epochs(folder)),
    ]
    settings = Listing(json.dumps(record.config, indent=2, ensure_ascii=False), "json")
    return Section("Training", (Facts(tuple(rows)),), (*pictures, settings), rank=LEAST)


def loading_section(folder: RunFolder, uri: str | None) -> Section:
    """How the model is loaded, in three lines.

    Args:
        folder: of the run.
        uri: of the model in MLflow; None: from the folder itself.
    """
    if uri is None:
        where = json.dumps(f"{folder.path.name}/{folder.model.name}")
        lines = [
            "from recsys.tracking.bundle import Bundle",
            f"bundle = Bundle.load({where})",
            "best = bundle.recommend([bundle.history(bundle.items.encode([...]))], k=10)",
        ]
    else:
        lines = [
            "import mlflow, pandas as pd",
            f"model = mlflow.pyfunc.load_model({json.dumps(uri)})",
            'lists = model.predict(pd.DataFrame({"history": [[...]]}), params={"k": 10})',
        ]
    blocks: tuple[Block, ...] = (Listing("\n".join(lines), "python"),)
    return Section("Loading it", blocks)


def _revision(record: RunRecord) -> Line:
    if record.git is None:
        return ("missing: not made in a checkout",)
    return (Code(record.git["revision"][:12]), ", with files that differed from it" if record.git["dirty"] else "")


def _frozen(evaluation_set: EvaluationSet) -> Line:
    return (Code(evaluation_set.fingerprint[:12]), f", {len(evaluation_set.requests):,} requests")


def _count(facts: dict[str, float], name: str, words: str) -> str:
    return f"{facts[name]:,} {words}" if name in facts else f"{words} missing"


def _amount(usage: dict[str, float], name: str, words: str) -> str:
    return f"{usage[name]:,.0f} {words}" if name in usage else f"{words}: missing"


def _gpu_memory(usage: dict[str, float]) -> Line:
    return (", ", _amount(usage, "peak_gpu_mib", "MiB of GPU memory")) if "peak_gpu_mib" in usage else ()


def _epochs(folder: RunFolder) -> Line:
    """How many epochs were validated and which was the best by the job's monitor."""
    if not (folder.path / "history.json").exists() or not (epochs := folder.history("validation")):
        return MISSING
    job = folder.record.config.get("job") or {}
    metric = str(job.get("monitor", "")).removeprefix("val/")
    known = [epoch for epoch in epochs if math.isfinite(epoch.get(metric, math.nan))]
    if not known:
        return (f"{len(epochs)} validated",)
    best = max(known, key=lambda epoch: epoch[metric])
    return (f"{len(epochs)} validated, the best one the {round(best['epoch']) + 1}. by {metric} ({best[metric]:.4f})",)
