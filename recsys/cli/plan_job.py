"""The heavy half of `recsys plan`: the network of a job without memory, and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from recsys.cli import plan
from recsys.cli.catalogue_sizes import Sizes, catalogue_of
from recsys.cli.fit_job import FitCLI
from recsys.features.catalogue import Catalogue
from recsys.features.datasets import recipe
from recsys.features.negatives import NegativeSampler
from recsys.features.schema import Schema
from recsys.losses.base import CatalogueLoss
from recsys.models.compositional import Composition
from recsys.models.tables import tables_on
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.data import EventLogData
from recsys.training.plan_report import PlannedTable, describe
from recsys.training.sharding_plan import DoesNotFit, TableRule, Topology, sharding_plan
from recsys.training.table_costs import Memory
from recsys.training.table_optimizers import (
    TableOptimizerError,
    check_fused,
    collections,
    step_in_backward,
    table_configs,
)
from recsys.training.table_sharders import dense_bytes, table_sharders
from recsys.training.topology import Device, PlanError
from recsys.training.torchrec_strategy import DEFAULT_RULE, TorchRecStrategy
from recsys.training.with_slates import WithSlates


class PlanCLI(FitCLI):
    """The arguments of a job, and what is to be planned for; nothing is read or written, and no trainer made."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser of a job under the name of this command."""
        own = {"prog": "recsys plan", "description": plan.__doc__, "env_prefix": "RECSYS_PLAN"}
        return super().init_parser(**kwargs | own)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the topology and the sizes."""
        super().add_arguments_to_parser(parser)
        recipe_says = "; default: as the recipe says"
        parser.add_argument("--ranks", type=int | None, help=f"processes of the job, one a device{recipe_says}")
        parser.add_argument("--ranks_per_host", type=int | None, help="of them on one machine; default: all")
        parser.add_argument("--device", type=Device | None, help=f"cpu or cuda{recipe_says}")
        parser.add_argument("--memory_gib", type=float | None, help="of a GPU, or of a rank's share of the machine")
        parser.add_argument("--host_memory_gib", type=float | None, help="of the machine, for each rank with a GPU")
        parser.add_argument("--reserve", type=float | None, help="share of the memory that tables leave alone")
        parser.add_argument("--rules", type=dict[str, TableRule] | None, help="table -> what its plan may be")
        for name, what in (
            ("rows", "rows of tables, as in item_id=10000000"),
            ("lengths", "values that an item has of a list or a text, on average, as in words=6.5"),
            ("dims", "dimensions of vectors, as in image=512"),
        ):
            parser.add_argument(f"--{name}", type=str, nargs="+", default=[], help=f"{what}; default: the log's")
        parser.add_argument("--n_items", type=int | None, help="number of items; default: the log's, or a row each")
        parser.add_argument(
            "--batch_size", type=int | None, help="items that a rank looks up in a step; default: at most as many"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """None is needed."""
        return None  # type: ignore[return-value]


@dataclass(frozen=True)
class Planned:
    """What the command has found.

    Attributes:
        name: of the job.
        topology: planned for.
        items: of the catalogue.
        batch_size: items that a rank looks up in a step.
        dense: bytes of the rest of the model on each rank.
        tables: each on every rank; none where they do not fit.
        error: why they do not fit.
        warnings: what else stands against the job.
    """

    name: str
    topology: Topology
    items: int
    batch_size: int
    dense: int
    tables: list[PlannedTable] = field(default_factory=list)
    error: DoesNotFit | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.error is None

    def memory(self, rank: int) -> Memory:
        """What all tables take on a rank."""
        return sum((table.memory for table in self.tables if table.rank == rank), start=Memory())

    def as_json(self) -> dict[str, Any]:
        """Everything, in bytes."""
        advice = self.error.advice if self.error is not None else ()
        return {
            "name": self.name,
            "fits": self.fits,
            "topology": asdict(self.topology),
            "items": self.items,
            "batch_size": self.batch_size,
            "dense_bytes": self.dense,
            "budget_bytes": self.topology.for_tables(self.dense),
            "tables": [
                asdict(table) | {"memory": asdict(table.memory) | {"on_rank": table.memory.on_rank}}
                for table in self.tables
            ],
            "error": None if self.error is None else self.error.message,
            "advice": [
                {
                    "text": a.text,
                    "topology": asdict(a.topology),
                    "rules": {name: asdict(rule) for name, rule in a.rules.items()},
                    "shapes": a.shapes,
                    "optimizer": None if a.optimizer is None else a.optimizer.__name__,
                }
                for a in advice
            ],
            "warnings": self.warnings,
        }


def make_plan(cli: PlanCLI) -> Planned:
    """Plans the job that the arguments describe.

    Raises:
        PlanError: the topology, a rule or a size cannot be, or the job trains on pairs.
        TableOptimizerError: the optimizer of the tables has no fused kernel.
    """
    config, init = cli.config, cli.config_init
    if cli.datamodule.pair_batches is not None:
        raise PlanError(
            "`data.batches`: one process trains on pairs, with whole tables, so that there is nothing to shard; plan "
            "networks that read histories"
        )
    strategy = init.trainer.strategy if isinstance(init.trainer.strategy, TorchRecStrategy) else None
    topology = _topology(config, strategy.topology if strategy is not None else Topology())
    catalogue = _catalogue(cli.datamodule, config)
    batch_size = config.batch_size or looked_up(cli.datamodule, cli.model.objective, catalogue.n_items, topology.ranks)
    with torch.device("meta"), tables_on("meta"):
        network = cli.model.make_network(catalogue)
    step_in_backward(network, cli.model.make_table_optimizer)
    given = (dict(strategy.rules) if strategy is not None else {}) | (init.rules or {})
    rules = rules_of(network, catalogue, given)
    found = Planned(
        init.job.name,
        topology,
        catalogue.n_items,
        batch_size,
        dense_bytes(network, table_sharders()),
        warnings=tuple(_warnings(network, topology)),
    )
    try:
        made = sharding_plan(network, topology, rules, batch_size)
    except DoesNotFit as error:
        return replace(found, error=error)
    return replace(found, tables=describe(made, network, topology, rules, batch_size))


def _topology(config: Any, base: Topology) -> Topology:
    """That of the recipe's strategy, on the recipe's devices, with what the command line says."""
    local, nodes = count_devices(config.trainer.devices), config.trainer.num_nodes
    device: Device = "cuda" if config.trainer.accelerator in ("gpu", "cuda") else "cpu"
    names = ("ranks", "ranks_per_host", "device", "memory_gib", "host_memory_gib", "reserve")
    said = {name: config[name] for name in names if config[name] is not None}
    if "ranks" not in said:
        said |= {"ranks": local * nodes} | ({"ranks_per_host": local} if nodes > 1 else {})
    return replace(base, **({"device": device} | said))


def count_devices(devices: int | str | list[int]) -> int:
    """How many devices a recipe names; 1 where it leaves that to the machine."""
    if isinstance(devices, list):
        return len(devices)
    numbers = [part for part in str(devices).split(",") if part.strip()]
    return int(numbers[0]) if len(numbers) == 1 and numbers[0].isdigit() else max(len(numbers), 1)


def _catalogue(data: EventLogData, config: Any) -> Catalogue:
    """The catalogue to plan for; the log is read only where it is needed."""
    schema = recipe(data.dataset) if data.dataset is not None else Schema.from_yaml(str(data.schema))
    numbers = {name: _numbers(name, config[name]) for name in ("rows", "lengths", "dims")}
    rows, dims = ({key: int(value) for key, value in numbers[name].items()} for name in ("rows", "dims"))
    given = Sizes(rows, numbers["lengths"], dims, config.n_items)
    given.check(schema)
    known = Sizes.of(data.log) if given.open(schema) else Sizes()
    return catalogue_of(schema, given, known, data.max_length)


def _numbers(option: str, words: list[str]) -> dict[str, float]:
    """`NAME=NUMBER` as a dictionary."""
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise PlanError(f"--{option} {word}: give NAME=NUMBER, as in item_id=10000000") from None
        if not found[name] > 0:
            raise PlanError(f"--{option} {word}: the number must be above 0")
    return found


def looked_up(data: EventLogData, objective: nn.Module, items: int, ranks: int) -> int:
    """Items that a rank looks up in a step, at most: histories and their last targets, and negatives.

    A network looks each distinct item up once; the bound is reached where no item comes twice.

    Args:
        data: of the job; its batch is shared by the ranks.
        objective: of the job; what auxiliaries and slates look up is another lookup.
        items: of the catalogue.
        ranks: of the job.
    """
    while isinstance(objective, WithAuxiliary | WithSlates):
        objective = objective.main
    if isinstance(getattr(objective, "loss", None), CatalogueLoss):
        return items + 1
    events = -(-data.batch_size // ranks) * data.max_length
    sampler = getattr(objective, "negatives", None)
    drawn = negatives(sampler, events) if isinstance(sampler, NegativeSampler) else 0
    return min(events + -(-data.batch_size // ranks) + drawn, items + 1)


def negatives(sampler: NegativeSampler, rows: int) -> int:
    """Negatives that a sampler draws for so many rows, besides targets of the batch itself."""
    if hasattr(sampler, "samplers"):
        return sum(negatives(part, rows) for part in sampler.samplers)
    drawn: int = getattr(sampler, "n", None) or 0
    return drawn * rows if getattr(sampler, "per_position", False) else drawn


def rules_of(network: nn.Module, catalogue: Catalogue, given: Mapping[str, TableRule]) -> dict[str, TableRule]:
    """A rule for every table: as given or the strategy's, with the lists of items and users as pooling factors.

    A table that several features read has their mean; queries of a batch are few beside its items, and not counted.
    """
    lengths = {}
    tables = {feature.name: str(feature.table) for feature in catalogue.schema.features}
    for name, (values, offsets) in {**catalogue.jagged, **catalogue.user_jagged}.items():
        for part in Composition.of(catalogue, tables.get(name, name)).names(name):
            lengths[part] = len(values) / (len(offsets) - 2)
    rules = dict(given)
    for _, collection in collections(network):
        pooled = isinstance(collection, EmbeddingBagCollection)
        for config in table_configs(collection):
            rule = given.get(config.name, DEFAULT_RULE)
            if pooled and rule.pooling_factor == 1.0:
                factor = sum(lengths.get(name, 0.0) for name in config.feature_names) / len(config.feature_names)
                rule = replace(rule, pooling_factor=max(factor, 1e-6))
            rules[config.name] = rule
    return rules


def _warnings(network: nn.Module, topology: Topology) -> list[str]:
    try:
        check_fused(network, torch.device(topology.device))
    except TableOptimizerError as error:
        return [str(error)]
    return []
