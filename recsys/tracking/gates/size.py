"""The challenger fits where it is sent to."""

from __future__ import annotations

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, GateError, Verdict
from recsys.tracking.model_files import sizes


class Size(Gate):
    """Refuses a model whose files take more than `most_mib` together, as the artefact store counts them.

    Args:
        most_mib: 2**20 bytes.

    Raises:
        GateError: the limit is not positive.
    """

    def __init__(self, most_mib: float) -> None:
        if not most_mib > 0:
            raise GateError(f"a limit of size is positive, not {most_mib}")
        self.most_mib = most_mib

    def check(self, case: PromotionCase) -> Verdict:
        if case.challenger.uri is None:
            raise GateError(f"{case.challenger.name} is no MLflow model; it has no files")
        files = sizes(case.challenger.uri, case.tracking_uri)
        if not files:
            raise GateError(f"{case.challenger.uri} has no files")
        if untold := [name for name, size in files.items() if size is None]:
            raise GateError(f"the artefact store does not say how large {untold[0]} is")
        mib = sum(size or 0 for size in files.values()) / 2**20
        numbers = {"mib": mib, "files": len(files)}
        return Verdict("Size", mib <= self.most_mib, numbers, f"{self.most_mib:g} MiB", f"{mib:.1f} MiB")
