from __future__ import annotations

import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path += [str(EXPERIMENTS), str(EXPERIMENTS / "benchmarks"), str(EXPERIMENTS / "benchmarks" / "peers")]
