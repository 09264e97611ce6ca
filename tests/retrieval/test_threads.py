"""Work in threads: everything once, torch's threads as before, and an end that does not wait for the rest."""

import threading
import time

import pytest
import torch

from recsys.retrieval.threads import in_threads


@pytest.mark.parametrize(("items", "threads"), [(0, 2), (1, 3), (10, 1), (10, 3), (3, 8)])
def test_every_item_once(items, threads):
    done = []
    in_threads(done.append, range(items), threads)
    assert sorted(done) == list(range(items))


def test_torch_uses_one_thread_inside_and_as_many_as_before_outside():
    before, inside, both = torch.get_num_threads(), set(), threading.Barrier(2, timeout=20)

    def work(_):
        both.wait()
        inside.add((torch.get_num_threads(), threading.get_ident()))

    in_threads(work, range(8), 2)
    assert {number for number, _ in inside} == {1}
    assert len(inside) == 2
    assert torch.get_num_threads() == before


def test_neighbours_go_to_different_threads():
    where, both = {}, threading.Barrier(2, timeout=20)

    def work(item):
        both.wait()
        where[item] = threading.get_ident()

    in_threads(work, range(6), 2)
    assert where[0] == where[2] == where[4] != where[1] == where[3] == where[5]


def test_an_error_ends_the_others_after_their_item():
    done = []

    def work(item):
        if item == 0:
            raise ValueError("no")
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(ValueError, match="no"):
        in_threads(work, range(100), 2)
    assert len(done) <= 2
