"""Candidates scored per second over a cached context, against encoding the whole sequence for each candidate.

A decoder of the recipe's size, users with 50 events, scored with 1 to 10,000 candidates each. `recomputed` runs one
sequence `[context | candidate]` under the mask matrix for every candidate, the most a batch of 256 sequences at a time;
with many candidates a part of them is recomputed and the rate taken from it. Both give the same states; the largest
difference is recorded.

    python experiments/benchmarks/candidate_scoring.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from _record import ratio, record
from torch import Tensor

from recsys.cli.allocator import keep_freed_memory
from recsys.models.decoder import Decoder
from recsys.models.rotary import SplitByDim
from recsys.models.tokens import Slots, attention_mask, context_cutoffs

WIDTH, LAYERS, HEADS, EVENTS = 128, 2, 2, 50
CANDIDATES = (1, 20, 200, 2_000, 10_000)
AT_ONCE, MOST = 256, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    decoder = Decoder(WIDTH, LAYERS, HEADS).eval()
    ratios: dict[str, Any] = {}
    difference = 0.0
    with torch.no_grad():
        for n in CANDIDATES:
            context, inputs = torch.randn(1, EVENTS, WIDTH), torch.randn(n, WIDTH)
            some = inputs[:MOST]
            ours, theirs = [], []
            for _ in range(given.rounds):
                states, seconds = timed(cached, decoder, context, inputs)
                ours.append(n / seconds)
                again, seconds = timed(recomputed, decoder, context, some)
                theirs.append(len(some) / seconds)
            difference = max(difference, float((states[: len(some)] - again).abs().max()))
            rates = statistics.median(ours), statistics.median(theirs)
            ratios[f"candidates_{n}"] = ratio(*rates, "candidates/s")
            print(n, ratios[f"candidates_{n}"], flush=True)
    settings = {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "events": EVENTS, "threads": given.threads}
    path = record("candidate_scoring", ratios, settings=settings, largest_difference=difference)
    print(f"written: {path.name}; largest difference {difference:.1e}")


def timed(score: Any, *inputs: Any) -> tuple[Tensor, float]:
    """What `score` gives, and its seconds."""
    started = time.perf_counter()
    states = score(*inputs)
    return states, time.perf_counter() - started


def turns(cutoff: Tensor, times: Tensor) -> Tensor:
    """Rotations of tokens `[B, L]`; the newest event is at hour `EVENTS - 1`."""
    newest = torch.full((len(cutoff),), 3600 * (EVENTS - 1))
    return SplitByDim().multiplier(cutoff, times, newest, HEADS, WIDTH // HEADS)


def cached(decoder: Decoder, context: Tensor, inputs: Tensor) -> Tensor:
    """The context once, then every candidate over it."""
    index = torch.arange(EVENTS).unsqueeze(0)
    _, caches = decoder(context, turns(index, 3600 * index))
    n = len(inputs)
    slots = Slots(
        row=torch.zeros(n, dtype=torch.int64),
        cutoff=torch.full((n,), EVENTS),
        timestamp=torch.full((n,), 3600 * EVENTS),
        query=torch.zeros(n, dtype=torch.int64),
    )
    places = slots.places(1, EVENTS)
    spread = [slots.spread(values, places.at, places.shape) for values in (slots.cutoff, slots.timestamp)]
    return decoder.slots(inputs, turns(*spread), places, caches)


def recomputed(decoder: Decoder, context: Tensor, inputs: Tensor) -> Tensor:
    """One sequence for each candidate."""
    index = torch.arange(EVENTS + 1).unsqueeze(0)
    turn = turns(index, 3600 * index)
    cutoffs = torch.cat([context_cutoffs(1, EVENTS), torch.tensor([[EVENTS]])], dim=1)
    mask = attention_mask(cutoffs, EVENTS)
    states = [
        decoder(torch.cat([context.expand(len(part), -1, -1), part.unsqueeze(1)], dim=1), turn, mask)[0][:, -1]
        for part in inputs.split(AT_ONCE)
    ]
    return torch.cat(states)


if __name__ == "__main__":
    main()
