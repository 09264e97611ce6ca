"""`recsys plan`: a job's tables without its memory, its exit codes, and numbers that a real catalogue agrees with."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml

from recsys.cli.catalogue_sizes import Sizes, catalogue_of
from recsys.cli.plan import main
from recsys.cli.plan_job import PlanCLI, count_devices, looked_up, make_plan, negatives
from recsys.features.datasets import DatasetError, load_dataset
from recsys.features.negatives import InBatch, Mixed, Popularity, Uniform
from recsys.features.schema import Schema
from recsys.losses.full_softmax import FullSoftmax
from recsys.models.synergen import SynerGen
from recsys.models.tables import tables_on
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.objective import RetrievalObjective
from recsys.training.spread_out import SpreadOut
from recsys.training.topology import PlanError

SCHEMA = {
    "name": "shop",
    "title": "name",
    "events": {"query": "query", "action": "kind"},
    "features": [
        {"name": "words", "column": "name", "type": "text"},
        {"name": "brand", "column": "brand", "type": "categorical"},
        {"name": "tags", "column": "tags", "type": "categorical_list"},
        {"name": "price", "column": "price", "type": "numeric"},
        {"name": "image", "column": "image", "type": "vector"},
        {"name": "asked", "type": "text", "entity": "query", "table": "words"},
    ],
    "tables": {"brand": {"encoding": "hash", "buckets": 50}, "tags": {"dim": 8}},
}
OPTIMIZER = "recsys.training.row_wise_adagrad.RowWiseAdagrad"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with every kind of feature, and a job on it."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    users = np.repeat([f"u{number}" for number in range(40)], random.integers(4, 12, 40))
    events = pd.DataFrame({"user_id": users, "item_id": random.integers(0, 60, len(users)), "kind": "buy"})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    events["query"] = pd.Series(random.choice(["red", "blue soap"], len(events))).where(
        random.random(len(events)) < 0.5
    )
    events.to_parquet(folder / "events.parquet")
    items = pd.DataFrame({"item_id": np.arange(60), "price": random.random(60)})
    items["name"] = [" ".join(random.choice(["red", "blue", "soap", "oil"], n % 3 + 1, False)) for n in range(60)]
    items["brand"] = random.choice(["a", "b"], 60)
    items["tags"] = [list(random.choice(["x", "y", "z"], n % 3, False)) for n in range(60)]
    items["image"] = list(random.random((60, 5)).astype(np.float32))
    items.to_parquet(folder / "items.parquet")
    (folder / "shop.yaml").write_text(yaml.safe_dump(SCHEMA))
    job = {
        "job": {"name": "planned"},
        "model": {
            "network": {"class_path": "recsys.models.synergen.SynerGen", "init_args": {"width": 16, "ranking": True}},
            "objective": {"class_path": "recsys.training.objective.RetrievalObjective"},
            "table_optimizer": {"class_path": OPTIMIZER},
        },
        "data": {
            "schema": f"{folder}/shop.yaml",
            "events": f"{folder}/events.parquet",
            "items": f"{folder}/items.parquet",
            "cache": f"{folder}/cache",
            "split": {"class_path": "recsys.features.splits.LeaveLastOut"},
            "batch_size": 8,
            "max_length": 6,
        },
        "trainer": {"accelerator": "cpu"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--config", f"{folder}/job.yaml", *more]


def planned(folder: Path, *more: str, code: int = 0, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(arguments(folder, *more, "--json")) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


@pytest.mark.filterwarnings("ignore")
def test_a_catalogue_of_sizes_has_the_shapes_of_the_real_one(folder: Path) -> None:
    data = PlanCLI(arguments(folder)).datamodule
    real, log = data.catalogue, data.log
    imagined = catalogue_of(log.schema, Sizes(), Sizes.of(log), data.max_length)
    assert imagined.config() | {"n_users": log.n_users} == real.config()
    assert shapes(imagined.tensors()) == shapes(real.tensors())
    assert all(tensor.is_meta for tensor in imagined.tensors().values())
    with torch.device("meta"), tables_on("meta"):
        without = SynerGen(imagined, width=16, ranking=True)
    network = SynerGen(real, width=16, ranking=True)
    assert shapes(without.state_dict()) == shapes(network.state_dict())
    assert shapes(dict(without.named_buffers())) == shapes(dict(network.named_buffers()))
    assert all(tensor.is_meta for tensor in (*without.parameters(), *without.buffers()))


def test_numbers_are_those_of_the_shapes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = "{item_id: {sharding: [row_wise]}, words: {sharding: [table_wise], pooling_factor: 2.0}}"
    found = planned(folder, "--ranks", "2", "--batch_size", "10", "--rules", rules, capsys=capsys)
    tables = {(row["table"], row["rank"]): row for row in found["tables"]}
    rows = found["items"] + 1
    assert {name for name, _ in tables} == {"item_id", "words", "brand", "tags"}
    first = tables["item_id", 0]
    here = -(-rows // 2)
    assert (first["rows"], first["dim"], first["shards"]) == (rows, 16, [[here, 16]])
    assert first["memory"]["weights"] == here * 16 * 4
    assert first["memory"]["state"] == here * 4
    assert first["sent"]["ids"] == pytest.approx(8 * 10 * (1 - here / rows))
    # Words feed two features: 10 samples of each, of 2 ids; the rank without the table sends them.
    asking = next(row for (name, _), row in tables.items() if name == "words" and not row["shards"])
    assert asking["sent"] == {"ids": 8.0 * 10 * 2 * 2, "vectors": 0.0, "gradients": 4.0 * 16 * 20}
    assert found["fits"] and found["error"] is None and found["warnings"] == []


def test_lists_of_the_items_are_the_pooling_factors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = "{tags: {sharding: [table_wise]}}"
    sent = [
        max(row["sent"]["ids"] for row in planned(folder, *more, capsys=capsys)["tables"] if row["table"] == "tags")
        for more in (
            ["--ranks", "2", "--batch_size", "100", "--rules", rules],
            ["--ranks", "2", "--batch_size", "100", "--rules", rules, "--lengths", "tags=7"],
        )
    ]
    tags = pd.read_parquet(folder / "items.parquet")
    seen = pd.read_parquet(folder / "events.parquet")["item_id"].unique()
    mean = tags.set_index("item_id").loc[seen, "tags"].map(len).mean()
    assert sent == pytest.approx([800 * mean, 800 * 7], rel=1e-3)


def test_a_catalogue_that_does_not_exist_needs_no_log_and_no_memory(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [
        "--rows",
        "item_id=2e9",
        "words=500_000",
        "tags=1000",
        "--lengths",
        "words=3",
        "tags=2",
        "--dims",
        "image=5",
    ]
    nowhere = ["--data.events", f"{tmp_path}/none.parquet", "--data.items", f"{tmp_path}/none.parquet"]
    before = psutil.Process().memory_info().rss
    topology = ["--ranks", "32", "--ranks_per_host", "8", "--device", "cuda", "--memory_gib", "280"]
    found = planned(folder, *sizes, *nowhere, *topology, capsys=capsys)
    assert psutil.Process().memory_info().rss - before < 200 << 20
    assert found["items"] == 2_000_000_000 - 1
    items = [row for row in found["tables"] if row["table"] == "item_id"]
    assert [row["memory"]["weights"] for row in items] == [62_500_000 * 16 * 4] * 32
    # Beside tables every rank has three lists, a price and an image of each item, and how often it is popular.
    n = found["items"]
    lists = 8 * (round(3 * n) + round(2 * n) + n + 3 * (n + 2))
    assert found["dense_bytes"] == pytest.approx(lists + 4 * (n + 1) * (1 + 5 + 1), abs=10 << 20)


def test_what_does_not_fit_says_what_would(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = ["--rows", "item_id=4000000", "--memory_gib", "1", "--model.network.init_args.side_features", "false"]
    large += ["--model.network.init_args.width", "128"]
    found = planned(folder, *large, code=1, capsys=capsys)
    assert not found["fits"] and found["tables"] == []
    assert "`item_id` (4,000,000 x 128) needs 1.92 GiB" in found["error"]
    ranks = next(advice["topology"]["ranks"] for advice in found["advice"] if "ranks: " in advice["text"])
    assert ranks == 4
    assert planned(folder, *large, "--ranks", str(ranks), capsys=capsys)["fits"]
    assert planned(folder, *large, "--ranks", str(ranks // 2), code=1, capsys=capsys)["advice"]
    more = next(advice["topology"]["memory_gib"] for advice in found["advice"] if "memory_gib" in advice["text"])
    assert planned(folder, *large, "--memory_gib", str(more), capsys=capsys)["fits"]


def test_a_large_rest_of_the_model_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(folder, "--rows", "item_id=100000000", "--memory_gib", "4", code=1, capsys=capsys)
    assert "of the rest most is `items.frozen.0.values` (1.86 GiB), `items.bag_input.words_values`" in found["error"]


def test_people_get_tables(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(arguments(folder, "--ranks", "4", "--rules", "{item_id: {sharding: [row_wise]}}")) == 0
    out = capsys.readouterr().out
    assert "planned: " in out and "4 x cpu" in out
    assert "row_wise on all" in out
    assert "The tables fit." in out
    assert main(arguments(folder, "--rows", "item_id=4000000000", "--memory_gib", "1")) == 1
    assert "the tables do not fit: 1 x 1 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "item=3"], "--rows: schema `shop` has no table `item`; it has brand, item_id, tags, words"),
        (["--rows", "item_id"], "--rows item_id: give NAME=NUMBER, as in item_id=10000000"),
        (["--rows", "item_id=0"], "--rows item_id=0: the number must be above 0"),
        (
            ["--lengths", "asked=3"],
            "--lengths: schema `shop` has no list or text of items or users `asked`; it has",
        ),
        (["--dims", "words=3"], "--dims: schema `shop` has no vector `words`; it has image"),
        (["--rows", "item_id=100", "--n_items", "7"], "--n_items 7 and --rows item_id=100: each item has a row"),
        (["--ranks", "0"], "ranks: 0; a job has at least one"),
        (["--ranks", "6", "--ranks_per_host", "4"], "ranks_per_host: 4 does not divide the 6 ranks"),
        (["--rules", "{item: {sharding: [row_wise]}}"], "no table `item` for its rule; the model has"),
        (
            ["--model.table_optimizer", "torch.optim.SparseAdam"],
            "sharded tables are updated within the backward pass, and SparseAdam has no kernel for it",
        ),
    ],
)
def test_wrong_arguments_are_told(
    folder: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, *more)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


@pytest.mark.parametrize(
    "more", [["--ranks", "two"], ["--device", "tpu"], ["--rules", "{item_id: {sharding: [rows]}}"]]
)
def test_arguments_of_a_wrong_type_are_told(folder: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments(folder, *more))
    assert stopped.value.code == 2
    assert "recsys plan" in capsys.readouterr().err


def test_an_optimizer_without_a_kernel_on_the_device_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adam = ["--model.table_optimizer", "recsys.training.sparse_adam.SparseAdam"]
    (warning,) = planned(folder, *adam, capsys=capsys)["warnings"]
    assert "FBGEMM has no fused Adam for a CPU" in warning
    found = planned(folder, *adam, "--device", "cuda", capsys=capsys)
    assert found["warnings"] == []
    (items,) = (row for row in found["tables"] if row["table"] == "item_id")
    assert items["memory"]["state"] == 2 * items["memory"]["weights"]


def test_the_recipe_says_what_the_arguments_do_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strategy = {
        "class_path": "recsys.training.torchrec_strategy.TorchRecStrategy",
        "init_args": {
            "topology": {"memory_gib": 3.0, "inter_host_bandwidth": 50.0},
            "rules": {"tags": {"sharding": ["row_wise"]}},
        },
    }
    trainer = ["--trainer.strategy", json.dumps(strategy), "--trainer.devices", "2", "--trainer.num_nodes", "2"]
    found = planned(folder, *trainer, capsys=capsys)
    topology = found["topology"]
    assert (topology["ranks"], topology["ranks_per_host"], topology["device"]) == (4, 2, "cpu")
    assert (topology["memory_gib"], topology["inter_host_bandwidth"]) == (3.0, 50.0)
    assert {row["sharding"] for row in found["tables"] if row["table"] == "tags"} == {"row_wise"}
    found = planned(folder, *trainer, "--ranks", "2", "--memory_gib", "5", capsys=capsys)
    assert (found["topology"]["ranks"], found["topology"]["memory_gib"]) == (2, 5.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "objective", [RetrievalObjective(negatives=Uniform(20)), RetrievalObjective(loss=FullSoftmax())]
)
def test_no_step_looks_up_more_than_foretold(folder: Path, objective: RetrievalObjective) -> None:
    data = PlanCLI(arguments(folder)).datamodule
    bound = looked_up(data, objective, items=10**9, ranks=1)
    if isinstance(objective.loss, FullSoftmax):
        assert bound == 10**9 + 1
        return
    most = 0
    for batch in data.train_dataloader():
        ids = torch.cat([batch.item_id, batch.target, torch.arange(10**6, 10**6 + 20)])
        most = max(most, len(ids.unique()))
    assert 0 < most <= bound == 8 * 7 + 20
    assert looked_up(data, objective, items=10**9, ranks=2) == 4 * 7 + 20
    assert looked_up(data, objective, items=30, ranks=1) == 31
    assert looked_up(data, WithAuxiliary(objective, [SpreadOut()]), items=10**9, ranks=2) == 4 * 7 + 20
    assert looked_up(data, RetrievalObjective(loss=FullSoftmax()), items=10**9, ranks=8) == 10**9 + 1


def test_negatives_are_those_that_samplers_draw() -> None:
    target = torch.randint(1, 900, (12,), generator=torch.Generator().manual_seed(0))
    counts = torch.ones(1001, dtype=torch.int64)
    for sampler in (Uniform(7), Uniform(7, per_position=True), Popularity(5), Mixed([Uniform(4), Popularity(3)])):
        sampler.setup(1000, counts, 0)
        assert negatives(sampler, 12) == sampler.sample(target).ids.numel()
    assert negatives(InBatch(), 12) == 0


def test_a_hashed_item_table_keeps_the_number_of_items() -> None:
    schema = Schema.parse({"name": "big", "item_table": {"encoding": "hash", "buckets": 1000}})
    given = Sizes(items=2_000_000_000)
    assert given.open(schema) == [] and Sizes().open(schema) == ["--n_items ..."]
    made = catalogue_of(schema, given, Sizes(), 50)
    assert (made.n_items, made.table_rows["item_id"]) == (2_000_000_000, 1001)
    assert made.item_rows is not None and made.item_rows.untyped_storage().nbytes() == 8
    assert catalogue_of(schema, Sizes({"item_id": 77}, items=10), Sizes(), 50).table_rows["item_id"] == 77


def test_what_only_a_log_can_tell_is_listed() -> None:
    schema = Schema.parse(SCHEMA)
    assert Sizes().open(schema) == [
        "--rows item_id=...",
        "--rows tags=...",
        "--rows words=...",
        "--n_items ...",
        "--lengths words=...",
        "--lengths tags=...",
        "--dims image=...",
    ]
    with pytest.raises(PlanError, match="a catalogue has at least one item"):
        catalogue_of(schema, Sizes({"item_id": 1}, {}, {"image": 5}), Sizes(), 50)


@pytest.mark.filterwarnings("ignore")
def test_a_plan_makes_no_trainer_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = PlanCLI(arguments(folder))
    assert make_plan(cli).fits and cli.trainer is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("devices", "count"), [(3, 3), ("2", 2), ([0, 5], 2), ("0,1,2", 3), ("auto", 1), (-1, 1), ("-1", 1)]
)
def test_devices_are_counted(devices: int | str | list[int], count: int) -> None:
    assert count_devices(devices) == count


PAGE = Path(__file__).parents[2] / "docs" / "planning.md"
SHOWN = re.findall(r"```console\n\$ recsys plan ([^\n]*)\n```\n\n```text\n(.*?)\n```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("words", "shown"), SHOWN)
def test_the_page_shows_what_is_printed(
    words: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        load_dataset("movielens_100k")
    except DatasetError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("COLUMNS", "160")
    code = main([*shlex.split(words), "--data.cache", str(tmp_path)])
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
    assert printed == shown
    assert code == ("do not fit" in shown)


def test_the_page_shows_a_strategy_that_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "strategy.yaml").write_text(text)
    sizes = ["--rows", "item_id=1000", "genres=100", "decade=50", "--lengths", "genres=2"]
    assert main(["--config", "movielens_100k", "--config", f"{tmp_path}/strategy.yaml", *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    topology = found["topology"]
    assert (topology["ranks"], topology["ranks_per_host"], topology["device"]) == (16, 8, "cuda")
    assert (topology["memory_gib"], topology["host_memory_gib"], topology["inter_host_bandwidth"]) == (80, 200, 25)
    kinds = {row["table"]: (row["sharding"], row["kernel"]) for row in found["tables"]}
    assert kinds["item_id"] == ("row_wise", "fused") and kinds["genres"][0] == "column_wise"
    assert kinds["decade"][1] in ("fused_uvm", "fused_uvm_caching")


def test_the_page_shows_plans() -> None:
    assert len(SHOWN) == 4
