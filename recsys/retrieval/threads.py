"""Independent pieces of work side by side on a CPU, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def in_threads(work: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Does `work` for every item, every `threads`-th of them in the same thread, where torch uses one thread.

    Scoring and ranking pass through many small operations. Splitting each of them over threads, with a barrier after
    it, is no faster on idle cores and many times slower on busy ones.

    An exception, Ctrl-C among them, ends the other threads after the item that they are at.

    Args:
        work: must not depend on the order of the items.
        items: of about equal cost where they are neighbours.
        threads: 1 does all in the calling thread, as it is.
    """
    threads = min(threads, len(items))
    if threads <= 1:
        for item in items:
            work(item)
        return
    stop = threading.Event()

    def share(first: int) -> None:
        try:
            for item in items[first::threads]:
                if stop.is_set():
                    return
                work(item)
        except BaseException:
            stop.set()
            raise

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                list(pool.map(share, range(threads)))
            finally:
                stop.set()
    finally:
        torch.set_num_threads(before)  # threads started later take their number from the last call
