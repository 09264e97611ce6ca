"""Champion and challenger are judged on the same frozen requests, and these are the challenger's own held-out ones."""

from __future__ import annotations

from recsys.evaluation.result import RULES, differing
from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, Verdict


class SameEvaluationSet(Gate):
    """Protects from numbers that may not stand side by side, and from requests that the challenger was trained on.

    The challenger must have been registered with the evaluation set that decides: what it was registered with was held
    out of its training, of another set nobody knows. Both models must have answered that set, under the same rules. A
    champion that was registered with an older set answers the new one like everybody; if its training has seen some of
    it, that helps the champion, and lets nobody through.
    """

    decisive = True

    def check(self, case: PromotionCase) -> Verdict:
        wanted, own = case.evaluation_set.fingerprint, case.challenger.registered_with
        limit = f"registered with and judged on evaluation set {wanted[:12]}"
        name = type(self).__name__
        if own != wanted:
            with_what = "no evaluation set" if own is None else f"evaluation set {own[:12]}"
            sentence = f"the challenger was registered with {with_what}; its training may have seen the requests"
            return Verdict(name, False, limit=limit, sentence=sentence)
        requests = 0
        for pair in case.pairs():
            both = {e.facts.get("evaluation_set") for e in (pair.champion, pair.challenger)}
            other = list(differing(pair.champion, pair.challenger, (*RULES, "top")))
            if both != {wanted} or other:
                what = ", ".join(other) or "the evaluation set"
                return Verdict(name, False, limit=limit, sentence=f"the two were judged under another {what}")
            requests += len(pair.challenger.users)
        champion = case.champion.registered_with
        same = "" if champion in (None, wanted) else f"; the champion was registered with {champion[:12]}, an older one"
        sentence = f"both answered the same {requests:,} requests{same}"
        return Verdict(name, requests > 0, {"requests": requests}, limit, sentence)
