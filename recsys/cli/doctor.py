"""Checks the installation and the machine, and says what to install or set where something does not fit.

The exit code is 1 when a check fails, 0 otherwise (warnings included).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from recsys.cli import checks
from recsys.cli.allocator import uses_glibc
from recsys.cli.checks import Check

SIGNS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look_up() -> None:
    """Looks two rows up through fbgemm and torchrec and compares them with the answer; raises where they differ."""
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

    # torchrec asks torch.fx something on every lookup that fx answers with a warning about its own future
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    weight = torch.arange(12.0).reshape(3, 4)
    values, lengths = torch.tensor([1, 2, 2]), torch.tensor([2, 1])
    expected = torch.stack([weight[1] + weight[2], weight[2]])

    bags = EmbeddingBagCollection(
        tables=[EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=3, feature_names=["f"])]
    )
    bags.load_state_dict({"embedding_bags.t.weight": weight})
    torch.testing.assert_close(bags(KeyedJaggedTensor(["f"], values, lengths=lengths)).values(), expected)

    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(3, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
    )
    table.split_embedding_weights()[0].copy_(weight)
    pooled = table(values, torch.tensor([0, 2, 3]))
    torch.testing.assert_close(pooled, expected)
    pooled.sum().backward()
    if torch.equal(table.split_embedding_weights()[0][1:], weight[1:]):
        raise RuntimeError("fbgemm's fused optimiser left the rows as they were")


def torch_checks() -> Iterator[Check]:
    """The checks that need torch to be imported; nothing where it cannot be."""
    try:
        import torch
    except ImportError:
        return
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    yield checks.check_devices(
        f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}",
        [f"{gpu.name} ({gpu.total_memory / (1 << 30):.0f} GiB)" for gpu in gpus],
        torch.version.cuda is not None,
    )
    blas = re.findall(r"BLAS_INFO=(\w+)", torch.__config__.show())
    yield checks.check_blas([f"{name} (torch)" for name in blas] + numpy_blas())
    yield checks.check_threads(torch.get_num_threads(), len(os.sched_getaffinity(0)))


def numpy_blas() -> list[str]:
    """The BLAS libraries that numpy has loaded."""
    try:
        import numpy  # noqa: F401
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    return [
        f"{info['internal_api']} {info['version']} (numpy)" for info in threadpool_info() if info["user_api"] == "blas"
    ]


def available_memory() -> int:
    """Bytes that can be allocated without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def tracking_problem(uri: str, timeout: float = 3.0) -> str | None:
    """What keeps MLflow from writing to `uri`, or None; changes nothing there."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout) as answer:
                return None if answer.status == 200 else f"answered {answer.status}"
        except (urllib.error.URLError, OSError, ValueError) as error:
            return f"not reachable ({getattr(error, 'reason', error)})"
    if parts.scheme not in ("", "file", "sqlite"):
        return None  # a database server: its driver and credentials are MLflow's own matter
    path = Path(parts.path[1:] if parts.scheme == "sqlite" else parts.path or ".")
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return f"{existing} cannot be written"
    if parts.scheme == "sqlite" and path.is_file():
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=timeout) as connection:
                connection.execute("select name from sqlite_master limit 1").fetchall()
        except sqlite3.Error as error:
            return str(error)
    return None


def answer_to_account(uri: str, timeout: float = 10.0) -> tuple[int, str | None]:
    """How a tracking server answers a call that MLflow would make: the HTTP status, 0 for none, and the account."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    asking = get_default_host_creds(uri)
    try:
        words = {"max_results": 1}
        path = "/api/2.0/mlflow/experiments/search"
        answer = http_request(asking, path, "GET", params=words, timeout=timeout, max_retries=0)
    except (MlflowException, OSError):
        return 0, asking.username
    return answer.status_code, asking.username


def run_checks() -> list[Check]:
    """Every check, in the order in which a reader mends things."""
    stack = ("torch", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchrec", "torchmetrics")
    results = [
        checks.check_python(sys.version_info[:2]),
        checks.check_triple({name: installed(name) for name in stack}),
        checks.check_lookup(look_up, checks.is_cuda_build(installed("torch"))),
        *checks.check_requirements(requires("recsys") or [], installed),
        checks.check_text(requires("recsys") or [], installed),
        *torch_checks(),
        checks.check_allocator(os.environ, uses_glibc()),
    ]
    if installed("psutil"):
        results.append(checks.check_memory(available_memory()))
    here = Path.cwd()
    results.append(checks.check_disk(here, shutil.disk_usage(here).free, os.access(here, os.W_OK)))
    data = Path(os.environ["RECSYS_DATA"]) if os.environ.get("RECSYS_DATA") else None
    names = [path.name for path in data.iterdir() if path.is_dir()] if data and data.is_dir() else []
    results.append(checks.check_data(data, names, find_spec("recbole") is not None))
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    results.append(checks.check_tracking(uri, tracking_problem(uri)))
    if uri.startswith("http") and results[-1].status == "ok":
        results.append(checks.check_account(*answer_to_account(uri)))
    return results


def print_table(results: list[Check]) -> None:
    """Prints the verdicts, the remedy of each misfit on a line of its own so that it can be copied."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("check", "", "found"):
        table.add_column(header, overflow="fold")
    for check in results:
        table.add_row(escape(check.name), SIGNS[check.status], escape(check.detail))
    Console().print(table)
    for check in results:
        if check.status != "ok" and check.remedy:
            print(f"\n{check.name}:\n  {check.remedy}")


def main(argv: list[str]) -> int:
    """Runs `recsys doctor`."""
    parser = argparse.ArgumentParser("recsys doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of the table")
    arguments = parser.parse_args(argv)
    results = run_checks()
    if arguments.json:
        print(json.dumps([asdict(check) for check in results], indent=1))
    else:
        print_table(results)
    return int(any(check.status == "fail" for check in results))
