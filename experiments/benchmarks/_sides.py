"""Several libraries on one task, in turns: each side is a process, and one works while the others sleep."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PEERS_PYTHON = "RECSYS_PEERS_PYTHON"
INSTALL = 'torch==2.13.0 "rectools[torch]==0.19.0" replay-rec==0.22.0 lightning==2.6.6'
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "replay": ("replay_sasrec.py", {}),
    "replay_bucketed": ("replay_sasrec.py", {"bucket": 32}),
    "rectools": ("rectools_sasrec.py", {}),
}
"""Name of the peer -> script and settings of its own."""
DATASETS = ("amazon_beauty", "movielens_100k")
SETTINGS: dict[str, Any] = {
    "width": 64,
    "blocks": 2,
    "heads": 1,
    "length": 50,
    "batch": 128,
    "negatives": 256,
    "dropout": 0.2,
    "lr": 0.001,
    "seed": 0,
}


class Side:
    """A process that does its part when it is asked.

    Attributes:
        name: of the library.
        facts: what it told of itself when it was ready.
    """

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        from recsys.cli.allocator import SETTINGS as ALLOCATOR

        self.name, self.log = name, log
        with log.open("wb") as errors:
            # All sides keep freed memory, as `recsys` does: the peers gain from it too.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | ALLOCATOR,
            )
        self.facts = self._answer()

    def ask(self, *words: str) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            words = self.log.read_text(errors="replace").splitlines()[-15:]
            raise SystemExit("\n".join([f"{self.name} ended with exit code {self.process.returncode}:", *words]))
        return json.loads(line)

    def end(self) -> None:
        """Ends the process."""
        if self.process.poll() is None and self.process.stdin is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def session(
    dataset: str, peers: list[str], settings: dict[str, Any], python: str
) -> Iterator[tuple[list[Side], Path, Any]]:
    """Our side and peers, ready to train on the strict leave-last-out split of a data set.

    Args:
        dataset: its name.
        peers: keys of `PEERS`.
        settings: of every side.
        python: interpreter of the peers' environment.

    Yields:
        The sides, ours first; a folder for their lists; the split.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        split = strict_split(dataset)
        data = Path(folder) / "data.npz"
        np.savez(data, **task_arrays(split))
        sides = []
        for name in ("ours", *peers):
            script, own = PEERS.get(name, ("", {"dataset": dataset}))
            program = (
                [sys.executable, str(HERE / "_ours.py")] if name == "ours" else [python, str(HERE / "peers" / script)]
            )
            command = [*program, "--data", str(data), "--settings", json.dumps(settings | own)]
            sides.append(Side(name, command, Path(folder) / f"{name}.log"))
            ends.callback(sides[-1].end)
        yield sides, Path(folder), split


def strict_split(dataset: str):
    """The prepared log of a data set, last and second last event of each user held out."""
    from recsys.features.splits import LeaveLastOut
    from recsys.training.data import EventLogData

    return EventLogData(dataset, split=LeaveLastOut()).split


def task_arrays(split: Any) -> dict[str, np.ndarray]:
    """Training sequences of the users with two events or more, and whole histories of the test users."""
    from recsys.features.jagged import expand_ranges, offsets_of

    items = np.asarray(split.log.item_id, dtype=np.int64)
    train = np.flatnonzero(split.train_end - split.train_start >= 2)
    start, lengths = split.train_start[train], (split.train_end - split.train_start)[train]
    history = split.test.history_end - split.test.history_start
    return {
        "train_items": items[expand_ranges(start, lengths)],
        "train_offsets": offsets_of(lengths),
        "history_items": items[expand_ranges(split.test.history_start, history)],
        "history_offsets": offsets_of(history),
        "n_items": np.asarray(split.log.n_items),
    }


def judge(lists: Path, split: Any) -> dict[str, float]:
    """Metrics of the lists in a file, by our evaluator, whoever made them."""
    import torch

    from recsys.evaluation.metrics import ranking_metrics

    wanted = torch.from_numpy(np.asarray(split.log.item_id, dtype=np.int64)[split.test.targets()])
    ranked = torch.from_numpy(np.load(lists).astype(np.int64))
    found = ranking_metrics(ranked, (wanted, torch.arange(len(wanted) + 1)), ks=(10,))
    return {name: round(float(found[name].mean()), 5) for name in ("HR@10", "NDCG@10")}


def arguments(description: str) -> argparse.ArgumentParser:
    """The arguments that comparisons share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers-python",
        default=os.environ.get(PEERS_PYTHON),
        help=f"interpreter of an environment with the peers; by default ${PEERS_PYTHON}",
    )
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    return parser


def peers_python(given: str | None, install: str = INSTALL) -> str:
    """The interpreter of the peers, or an exit that says how to get one."""
    if given is None:
        raise SystemExit(
            f"the peers need an environment of their own, because they cap pandas below 3:\n  python -m venv peers && "
            f"peers/bin/pip install {install}\nthen set {PEERS_PYTHON}=peers/bin/python"
        )
    return given
