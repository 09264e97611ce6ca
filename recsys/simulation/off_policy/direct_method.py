"""Direct method: the reward model is believed."""

from __future__ import annotations

import numpy as np

from recsys.simulation.off_policy.rounds import Rounds
from recsys.simulation.off_policy.terms import Terms


class DirectMethod:
    """Mean over rounds of the reward that the model expects from the policy.

    Little variance, and all of the model's bias, of which its interval knows nothing.

    Source: Beygelzimer and Langford, "The offset tree for learning with partial labels", KDD 2009.
    """

    name = "DM"

    def __call__(self, rounds: Rounds) -> Terms:
        return Terms(rounds.expected, pull=rounds.pull(np.zeros(len(rounds))))
