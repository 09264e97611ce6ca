"""The cases of one number of ranks: `python worker.py FOLDER`, under torchrun for several."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import torch

from tests.distributed import checkpoint_cases, failure_cases, plain_cases, refused_cases, training_cases
from tests.distributed.jobs import RANK, WORLD

EVERYWHERE = training_cases.EVERYWHERE | plain_cases.EVERYWHERE
OTHERS = checkpoint_cases.OTHERS | plain_cases.OTHERS
CASES = {
    1: EVERYWHERE | OTHERS | training_cases.ALONE | refused_cases.ALONE,
    2: EVERYWHERE | training_cases.TWO | checkpoint_cases.TWO | plain_cases.TWO | failure_cases.TWO,
    3: EVERYWHERE | OTHERS | training_cases.TOGETHER | failure_cases.LAST,
}
"""Ranks -> name and case; one and three ranks read what two have saved."""


def main(folder: Path, only: list[str]) -> None:
    for name, case in CASES[WORLD].items():
        if not only or name in only:
            started = time.perf_counter()
            found = case(folder)
            if RANK == 0:
                torch.save(found, folder / f"{name}.{WORLD}.pt")
                print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main(Path(sys.argv[1]), sys.argv[2:])
