"""Saved on two ranks, and trained on by one, two and three as if nothing had happened."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.training import sharded_checkpoint
from tests.distributed.conftest import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]

FIRST, LAST, WRITTEN_AT = 10, 60, 15
CLOSE = 1e-5


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", ["plain", "dropout"], ids=["at once", "while training goes on, with dropout"])
class TestOnAsManyRanks:
    def test_writing_changes_nothing(self, two: Ranks, case: str, rank: int) -> None:
        (first, _), reference = two["resumed"][rank][case], two["reference"][rank][case]
        assert first["losses"] == reference["losses"][:WRITTEN_AT]

    def test_what_follows_is_the_same_bit_for_bit(self, two: Ranks, case: str, rank: int) -> None:
        (_, second), reference = two["resumed"][rank][case], two["reference"][rank][case]
        assert len(second["losses"]) == LAST - FIRST
        assert second["losses"] == reference["losses"][FIRST:]
        assert second["rates"] == reference["rates"][FIRST:]
        assert equal(second["state"], reference["state"])
        kinds = {name.partition(".")[0].partition(" ")[0] for name in second["state"]}
        assert kinds == {"table", "optimizer", "dense"}
        assert rank or equal(second["weights"], reference["weights"])


def test_dropout_is_at_work(two: Ranks) -> None:
    losses = [two["reference"][0][case]["losses"] for case in ("plain", "dropout")]
    assert losses[0][0] != losses[1][0]


@pytest.mark.parametrize("rules", ["same rules", "other rules"])
@pytest.mark.parametrize("world", ["one", "three"])
def test_on_other_numbers_of_ranks_the_next_losses_are_close(ranks_of, two: Ranks, world: str, rules: str) -> None:
    found, reference = ranks_of(world)["elsewhere"][rules], two["reference"][0]["plain"]
    assert found["losses"] == pytest.approx(reference["losses"][FIRST:], abs=CLOSE)
    assert found["rates"] == reference["rates"][FIRST:]
    for name, weight in reference["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=CLOSE, rtol=0.0)


def test_the_reference_goes_on_learning(two: Ranks) -> None:
    losses = two["reference"][0]["plain"]["losses"]
    assert abs(losses[FIRST] - losses[LAST - 1]) > 1000 * CLOSE


CUTS = ["row_wise", "table_wise", "column_wise", "cut", "one table"]


@pytest.mark.parametrize("cut", CUTS)
class TestOfAModuleOfAnyKind:
    def test_ranks_train_the_same(self, ranks_of, two: Ranks, cut: str) -> None:
        expected = two["plain"][0][cut]
        for world in ("one", "three"):
            for found in ranks_of(world)["plain"]:
                assert found[cut]["losses"] == pytest.approx(expected["losses"], abs=CLOSE)
                assert found[cut]["logged"] == pytest.approx(expected["logged"], abs=CLOSE)
                assert found[cut]["rates"] == expected["rates"]

    def test_the_same_ranks_go_on_bit_for_bit(self, two: Ranks, cut: str) -> None:
        for found, expected in zip(two["plain_saved"], two["plain"], strict=True):
            half = len(expected[cut]["losses"]) // 2
            assert found[cut]["losses"] == expected[cut]["losses"][half:]
            assert found[cut]["rates"] == expected[cut]["rates"][half:]
        assert equal(two["plain_saved"][0][cut]["weights"], two["plain"][0][cut]["weights"])

    @pytest.mark.parametrize("world", ["one", "three"])
    def test_other_ranks_go_on(self, ranks_of, two: Ranks, cut: str, world: str) -> None:
        expected = two["plain"][0][cut]
        half = len(expected["losses"]) // 2
        for found in ranks_of(world)["plain_elsewhere"]:
            assert found[cut]["losses"] == pytest.approx(expected["losses"][half:], abs=CLOSE)
            assert found[cut]["rates"] == expected["rates"][half:]
        weights = ranks_of(world)["plain_elsewhere"][0][cut]["weights"]
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(weights[name], weight, atol=CLOSE, rtol=0.0)


def test_some_ranks_hold_no_table(two: Ranks, three: Ranks) -> None:
    assert [found["one table"]["tables"] for found in two["plain"]] == [1, 0]
    assert [found["table_wise"]["tables"] for found in three["plain"]] == [1, 1, 0]


def test_whole_tables_of_a_checkpoint_are_the_gathered_ones(two: Ranks) -> None:
    assert equal(sharded_checkpoint.consolidate(two.folder / "undisturbed" / "last.ckpt"), two["undisturbed"]["saved"])


def test_its_parts_are_listed(two: Ranks) -> None:
    found = {saved.name: saved for saved in sharded_checkpoint.inspect(two.folder / "plain" / "step.ckpt")}
    items = found["network.items.ids.embeddings.item_id.weight"]
    tags = found["network.items.bags.embedding_bags.tags.weight"]
    assert (items.kind, items.shape, items.shards) == ("table", (50, 32), 1)  # table-wise
    assert (tags.kind, tags.shape[1], tags.shards) == ("table", 32, 2)  # by rows
    assert found[f"{tags.name}/momentum1"].shape == (tags.shape[0],)
    assert found[f"{tags.name}/momentum1"].kind == "optimizer"
    assert items.mib == 50 * 32 * 4 / 2**20


@pytest.mark.parametrize("way", ["at once", "meanwhile"])
def test_the_best_are_kept(two: Ranks, way: str) -> None:
    for epochs in two["kept"]:
        losses = epochs[: len(epochs) // 2] if way == "at once" else epochs[len(epochs) // 2 :]
        best = sorted(range(len(losses)), key=losses.__getitem__)[:2]
        folder = two.folder / "kept" / way
        assert {path.name for path in folder.iterdir()} == {"last.ckpt", *(f"epoch={epoch}.ckpt" for epoch in best)}
        assert all(sharded_checkpoint.is_sharded(path) for path in folder.iterdir())
        for epoch in best:
            assert sharded_checkpoint.load_replicated(folder / f"epoch={epoch}.ckpt")["epoch"] == epoch
