"""What policies for the table of item ids save and cost: rows, memory, collisions and the traffic that they affect.

Every policy prepares the same logs; nothing is trained. A hash table has as many buckets as there are items, or a
multiple of that; its collision rate stands beside 1 - (1 - 1/m)^(n - 1), what balls in bins do.

    python experiments/benchmarks/table_policies.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from math import isqrt
from typing import Any

from _record import ratio, record

from recsys.features.datasets import Source, load_dataset
from recsys.features.embedding_table import Table
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.table_report import TableReport, expected_collision_rate, table_reports

DATASETS = ("movielens_100k", "amazon_beauty")
MULTIPLES = (0.25, 0.5, 1, 2, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="embedding dimension")
    parser.add_argument("--min-count", type=int, default=10, help="the frequency threshold")
    arguments = parser.parse_args()
    ratios, reports = {}, {}
    for name in DATASETS:
        source = load_dataset(name)
        whole = report_of(source, {})
        for label, table in policies(whole.values, arguments.min_count).items():
            report = report_of(source, table)
            key = f"{name}/{label}"
            reports[key] = asdict(report)
            held, plain = (r.bytes(arguments.width) / 2**20 for r in (report, whole))
            ratios[f"{key}/memory"] = ratio(held, plain, "MiB")
            if "buckets" in table:
                expected = expected_collision_rate(report.values, table["buckets"])
                ratios[f"{key}/collision_rate"] = ratio(report.collision_rate, expected, "share of values")
            print(f"{key}: {json.dumps(reports[key])}")
    settings = {"width": arguments.width, "min_count": arguments.min_count}
    print(f"written: {record('table_policies', ratios, settings=settings, reports=reports).name}")


def policies(items: int, min_count: int) -> dict[str, dict[str, Any]]:
    """The policies by name, for a catalogue of that many items."""
    root = isqrt(items) + 1
    return {
        "vocabulary": {},
        **{f"hash_x{multiple:g}": {"encoding": "hash", "buckets": int(items * multiple)} for multiple in MULTIPLES},
        "rare_dropped": {"min_count": min_count},
        "rare_hashed": {"min_count": min_count, "unknown": "hash", "unknown_buckets": items // 16},
        "quotient_remainder": {"compression": {"method": "quotient_remainder", "rows": root}},
        "double_hash": {"compression": {"method": "double_hash", "rows": 4 * root}},
    }


def report_of(source: Source, table: dict[str, Any]) -> TableReport:
    """The report of the table of item ids under one policy."""
    schema = Schema(name=source.schema.name, events=source.schema.events, item_table=Table.model_validate(table))
    with tempfile.TemporaryDirectory() as folder:
        (report,) = table_reports(prepare(schema, source.events, cache_dir=folder))
    return report


if __name__ == "__main__":
    main()
