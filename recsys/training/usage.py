"""What training takes: work, time and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


def peak_rss_mib() -> float:
    """The most memory this process has held, in MiB.

    Linux tells it per program in `/proc/self/status`; what `getrusage` says there may be the peak of the process that
    started this one, and is used elsewhere only.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def peak_gpu_mib() -> float | None:
    """The most memory torch has held on one GPU, in MiB; None where there is no GPU in use."""
    torch: Any = sys.modules.get("torch")  # a process that has not imported it has nothing on a GPU
    if torch is None or not torch.cuda.is_initialized():
        return None
    return max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 2**20


@dataclass
class Work:
    """Training that was done.

    Attributes:
        sequences: training sequences.
        events: input events in them.
        slots: places of the padded batches, `sum of batch size x longest sequence`.
        seconds: spent in training steps and the loading of their batches; without validation.
    """

    sequences: int = 0
    events: int = 0
    slots: int = 0
    seconds: float = 0.0

    @property
    def sequences_per_s(self) -> float:
        """Training speed; 0 before anything was done."""
        return self.sequences / self.seconds if self.seconds else 0.0

    @property
    def padded_share(self) -> float:
        """Share of the slots that held no event."""
        return 1.0 - self.events / self.slots if self.slots else 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))
