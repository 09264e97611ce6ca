"""The probabilities that the challenger gives are probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, GateError, Verdict

_JUDGED, _SERVED = "calibration.json", "artifacts/bundle/serving.json"


class Calibration(Gate):
    """Passes where the expected calibration error on test users is small beside the base rate.

    For a model that ranks `recsys fit` has measured it, and left it in the run. The gate is not run for a model that
    gives no probabilities.

    Args:
        of_base_rate: the error allowed, as a share of the base rate. A model that always says "rarely" has an error of
            about the base rate or less.

    Raises:
        GateError: the share is not positive.
    """

    def __init__(self, of_base_rate: float = 0.5) -> None:
        if not of_base_rate > 0:
            raise GateError(f"the error allowed is a positive share of the base rate, not {of_base_rate}")
        self.of_base_rate = of_base_rate

    def check(self, case: PromotionCase) -> Verdict:
        limit = f"at most {self.of_base_rate:g} of the base rate"
        if _served(case) is None:
            return Verdict("Calibration", True, limit=limit, sentence="the model gives no probabilities", ran=False)
        found = _judged(case)
        error, base_rate = found["after"], found["base_rate"]
        numbers = {"error": error, "before": found["before"], "base_rate": base_rate}
        sentence = f"error {error:.2e}, base rate {base_rate:.2e}"
        return Verdict("Calibration", 0 <= error <= self.of_base_rate * base_rate, numbers, limit, sentence)


def _served(case: PromotionCase) -> Any:
    """What makes probabilities of the challenger's scores; None where nothing does."""
    from mlflow.artifacts import download_artifacts, list_artifacts

    if case.challenger.uri is None:
        return None
    folder = str(Path(_SERVED).parent)
    files = list_artifacts(artifact_uri=f"{case.challenger.uri}/{folder}", tracking_uri=case.tracking_uri)
    if Path(_SERVED).name not in {entry.path.rpartition("/")[2] for entry in files}:
        return None
    path = download_artifacts(artifact_uri=f"{case.challenger.uri}/{_SERVED}", tracking_uri=case.tracking_uri)
    return json.loads(Path(path).read_text(encoding="utf-8")).get("platt")


def _judged(case: PromotionCase) -> dict[str, float]:
    from mlflow.tracking import MlflowClient

    if case.challenger.run_id is None:
        raise GateError("the challenger belongs to no run; nothing says how far its probabilities are off")
    client = MlflowClient(case.tracking_uri)
    if _JUDGED not in {entry.path for entry in client.list_artifacts(case.challenger.run_id)}:
        raise GateError(f"the run of the challenger has no {_JUDGED}; log it, or leave this gate out")
    path = Path(client.download_artifacts(case.challenger.run_id, _JUDGED))
    error: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["expected_calibration_error"]
    return error
