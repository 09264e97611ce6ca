"""An event log as a folder of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn
from recsys.features.log_data import LogData
from recsys.features.schema import DENSE, Entity, FeatureType, Schema
from recsys.features.sentences import SentenceModel
from recsys.features.table_usage import TableUsage
from recsys.features.vocabulary import HashBuckets, Vocabulary

FORMAT_VERSION = 3
"""Version of the files that `write` writes; part of every fingerprint, so an old cache is never read by new code."""

MANIFEST = "manifest.json"


class EventLogError(ValueError):
    """A folder that is not an event log; the message names it."""


def write(log: LogData, folder: Path) -> None:
    """Writes everything but the columns that are already files under `folder`.

    The manifest is written last: a folder without one is not a log.
    """
    (folder / "columns").mkdir(parents=True, exist_ok=True)
    for name, column in log.columns.items():
        if not (folder / "columns" / f"{name}.npy").exists():
            np.save(folder / "columns" / f"{name}.npy", column)
    np.save(folder / "offsets.npy", log.offsets)
    bags = {"item": log.item_features, "user": log.user_features, "query": log.query_features}
    for entity, features in bags.items():
        for name, jagged in features.items():
            np.save(folder / f"{entity}.{name}.values.npy", jagged.values)
            np.save(folder / f"{entity}.{name}.offsets.npy", jagged.offsets)
    dense: dict[str, dict[str, NDArray[Any]]] = {
        "item": {**log.item_numeric, **log.item_vectors},
        "user": {**log.user_numeric, **log.user_vectors},
        "query": {**log.query_vectors},
    }
    for entity, arrays in dense.items():
        for name, values in arrays.items():
            np.save(folder / f"{entity}.{name}.npy", values)
    vocabularies, of_tables = _vocabularies(log)
    for name, vocabulary in vocabularies.items():
        vocabulary.save(folder / f"vocabulary.{name}.parquet")
    for name, vocabulary in of_tables.items():
        vocabulary.save(folder / f"table.{name}.parquet")
    for name, usage in log.usage.items():
        np.save(folder / f"usage.{name}.npy", usage.stacked())
    if log.item_titles is not None:
        pd.DataFrame({"title": log.item_titles}).to_parquet(folder / "item_titles.parquet")
    manifest = {
        "format": FORMAT_VERSION,
        "fingerprint": log.fingerprint,
        "schema": log.schema.model_dump(mode="json"),
        "columns": sorted(log.columns),
        "hash_tables": {n: e.buckets for n, e in log.encoders.items() if isinstance(e, HashBuckets)},
        "vocabularies": sorted(vocabularies),
        "id_tables": sorted(of_tables),
        "usage": sorted(log.usage),
        "scaling": log.scaling,
        "sentence_models": {name: asdict(model) for name, model in log.sentence_models.items()},
        "titles": log.item_titles is not None,
        "facts": log.facts,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")


def _vocabularies(log: LogData) -> tuple[dict[str, Vocabulary], dict[str, Vocabulary]]:
    """The vocabularies by name, and those of tables that give only some ids a row of their own."""
    ids = {"user_id": log.users, "item_id": log.items}
    of_tables = {n: v for n, v in log.vocabularies.items() if n in ids and len(v) < len(ids[n])}
    return ids | {n: v for n, v in log.vocabularies.items() if n not in of_tables}, of_tables


def read(folder: Path) -> LogData:
    """Opens what `write` wrote; columns are memory-mapped, nothing is read before it is used.

    Raises:
        EventLogError: the folder holds no event log, or one of another format.
    """
    manifest = _manifest(folder)
    schema = Schema.parse(manifest["schema"], origin=str(folder / MANIFEST))
    load: Callable[[Path], NDArray[Any]] = partial(np.load, mmap_mode="r", allow_pickle=False)
    encoders: dict[str, Any] = {
        name: Vocabulary.load(folder / f"vocabulary.{name}.parquet") for name in manifest["vocabularies"]
    }
    users, items = (Vocabulary(encoders[name].values) for name in ("user_id", "item_id"))
    # What was added later is missing in older logs.
    encoders |= {name: Vocabulary.load(folder / f"table.{name}.parquet") for name in manifest.get("id_tables", ())}
    encoders |= {name: HashBuckets(buckets) for name, buckets in manifest["hash_tables"].items()}

    def jagged(entity: Entity) -> dict[str, JaggedColumn]:
        names = [feature.name for feature in schema.of(entity) if feature.type not in DENSE]
        return {
            name: JaggedColumn(
                load(folder / f"{entity}.{name}.values.npy"), load(folder / f"{entity}.{name}.offsets.npy")
            )
            for name in names
        }

    def dense(entity: Entity, *kinds: FeatureType) -> dict[str, NDArray[Any]]:
        return {f.name: load(folder / f"{entity}.{f.name}.npy") for f in schema.of(entity) if f.type in kinds}

    titles = folder / "item_titles.parquet"
    return LogData(
        schema=schema,
        users=users,
        items=items,
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        columns={name: load(folder / "columns" / f"{name}.npy") for name in manifest["columns"]},
        encoders=encoders,
        usage={name: TableUsage(*load(folder / f"usage.{name}.npy")) for name in manifest.get("usage", ())},
        item_features=jagged("item"),
        user_features=jagged("user"),
        query_features=jagged("query"),
        item_numeric=dense("item", "numeric"),
        user_numeric=dense("user", "numeric"),
        item_vectors=dense("item", "vector", "sentence"),
        user_vectors=dense("user", "vector", "sentence"),
        query_vectors=dense("query", "sentence"),
        scaling={name: (mean, sd) for name, (mean, sd) in manifest["scaling"].items()},
        sentence_models={name: SentenceModel(**model) for name, model in manifest["sentence_models"].items()},
        item_titles=pd.read_parquet(titles)["title"].to_numpy(dtype=str) if manifest["titles"] else None,
        fingerprint=manifest["fingerprint"],
        facts=manifest["facts"],
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a log of this format."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EventLogError(f"{folder}: no event log here (no {MANIFEST}); make one with `recsys prepare`") from None
    except json.JSONDecodeError as error:
        raise EventLogError(f"{folder / MANIFEST}: damaged ({error}); delete the folder and prepare again") from None
    if manifest["format"] != FORMAT_VERSION:
        raise EventLogError(
            f"{folder}: written in format {manifest['format']}, this version reads {FORMAT_VERSION}; "
            "delete the folder and prepare again"
        )
    return manifest
