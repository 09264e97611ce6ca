"""The examples of the pages stand there as they are, and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "torchrec_in_lightning.py"


def test_the_page_shows_the_file() -> None:
    page = (ROOT / "docs" / "torchrec-in-lightning.md").read_text(encoding="utf-8")
    assert f"```python\n{EXAMPLE.read_text(encoding='utf-8')}```\n" in page


@pytest.mark.distributed
def test_tables_are_learned_on_two_ranks(tmp_path: Path) -> None:
    """Ratings are 0 and 1, half of each: who learns nothing has a loss of 0.25."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLE)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (loss,) = re.findall(r"^loss ([\d.]+) on 2 ranks$", done.stdout, re.MULTILINE)
    assert float(loss) < 0.01
