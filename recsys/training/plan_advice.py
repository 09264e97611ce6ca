"""What would make tables fit that do not: every piece of advice has been planned for, and fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import nn
from torchrec.distributed.planner.proposers import GreedyProposer
from torchrec.distributed.planner.types import PlannerError
from torchrec.optim import RowWiseAdagrad

from recsys.training.table_costs import Table, state_bytes
from recsys.training.table_planner import plan_once
from recsys.training.table_sharders import Sharder, altered, dense_bytes, dense_parts, find_tables
from recsys.training.topology import GIB, PlanError, TableRule, Topology

MOST_RANKS = 512
MOST_GIB = 1 << 12
MOST_GPU_GIB = 288
UNCUT = {"table_wise", "data_parallel"}
MUCH = 0.1
"""Of a rank's memory: a rest of the model that is more is told in parts."""
MOST_TO_ONE = 1000
"""Ids on a row of a table: more are no table."""
MACHINE = 8
"""GPUs of a machine that is added where the topology names no size."""


@dataclass(frozen=True)
class Advice:
    """One change that makes the tables fit.

    Attributes:
        text: for people.
        topology: to plan for instead.
        rules: to plan with instead.
        shapes: table -> rows and dimensions to give it instead.
        optimizer: of TorchRec, for all tables instead; None: their own.
    """

    text: str
    topology: Topology
    rules: Mapping[str, TableRule]
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    optimizer: type[torch.optim.Optimizer] | None = None


class DoesNotFit(PlanError):
    """Tables that are too large for a topology.

    Attributes:
        advice: what would make them fit, each on its own.
    """

    def __init__(self, message: str, advice: Sequence[Advice]):
        super().__init__(message, advice)
        self.message, self.advice = message, tuple(advice)

    def __str__(self) -> str:
        lines = [f"  - {advice.text}" for advice in self.advice]
        return "\n".join([self.message, "What would make it fit:", *lines]) if lines else self.message


def does_not_fit(
    module: nn.Module, topology: Topology, rules: Mapping[str, TableRule], batch_size: int, sharders: Sequence[Sharder]
) -> DoesNotFit:
    """The error for tables for which no plan was found: which needs how much, what there is, what would help.

    Args:
        module: with the tables.
        topology: that they do not fit.
        rules: that they were planned with.
        batch_size: samples of a step on a rank.
        sharders: of the tables.
    """

    def fits(advice: Advice) -> bool:
        """Whether an advice helps; the greedy proposer alone is quick, and a plan that it finds the others find too."""
        seen = altered(sharders, advice.shapes, advice.optimizer)
        if _cannot_fit(find_tables(module, seen, advice.rules, batch_size), advice, dense):
            return False
        try:
            plan_once(module, advice.topology, advice.rules, batch_size, seen, [GreedyProposer()])
        except PlannerError:
            return False
        return True

    dense = dense_bytes(module, sharders)
    tables = sorted(find_tables(module, sharders, rules, batch_size), key=_bytes, reverse=True)
    more, freer = _more(fits, topology, rules), _freer(fits, topology, rules)
    smaller = _less_state(fits, topology, rules, tables), _smaller(fits, topology, rules, tables[0])
    advice = [*more, *freer, *chain(*smaller)]
    return DoesNotFit(_message(tables, topology, rules, dense_parts(module, sharders)), advice)


def _cannot_fit(tables: Sequence[Table], advice: Advice, dense: int) -> bool:
    """Whether sizes alone say no, which spares the planner: all ranks together, or one that must have a whole table."""
    of_rank = advice.topology.for_tables(dense) + advice.topology.host_memory
    uncut = [
        table for table in tables if set(advice.rules.get(table.name, TableRule()).sharding or ("row_wise",)) <= UNCUT
    ]
    return sum(map(_bytes, tables)) > advice.topology.ranks * of_rank or any(_bytes(t) > of_rank for t in uncut)


def _bytes(table: Table) -> int:
    """Of the whole table, weights and optimizer state."""
    weights = table.rows * table.dim * table.value_bytes
    return weights + sum(state_bytes(table.optimizer, table.rows, table.dim))


def _message(
    tables: Sequence[Table], topology: Topology, rules: Mapping[str, TableRule], rest: Mapping[str, int]
) -> str:
    dense = sum(rest.values())
    lines = [
        f"the tables do not fit: {topology.ranks} x {topology.memory / GIB:.4g} GiB, of which "
        f"{topology.reserve:.0%} are reserved and {human(dense)} a rank taken by the rest of the model, leave "
        f"{human(topology.for_tables(dense))} a rank"
        + (f", and {human(topology.host_memory)} of the machine" if topology.device == "cuda" else "")
    ]
    for table in tables:
        state = sum(state_bytes(table.optimizer, table.rows, table.dim))
        rule = rules.get(table.name, TableRule())
        asked = [*(rule.sharding or ()), *(rule.placement or ())]
        lines.append(
            f"  `{table.name}` ({table.rows:,} x {table.dim}) needs {human(_bytes(table))}, {human(state)} of it for "
            "its optimizer" + (f"; its rule allows {', '.join(asked)}" if asked else "")
        )
    if dense > MUCH * topology.memory:
        largest = sorted(rest.items(), key=lambda part: -part[1])[:3]
        lines.append(f"  of the rest most is {', '.join(f'`{name}` ({human(size)})' for name, size in largest)}")
    return "\n".join(lines)


def human(size: float) -> str:
    """Bytes for people."""
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit / 10:
            return f"{size / unit:,.2f} {name}"
    return f"{size:.0f} B"


Check = Callable[[Advice], bool]


def _more(fits: Check, topology: Topology, rules: Mapping[str, TableRule]) -> Iterator[Advice]:
    """More ranks, under freer rules where these allow none; more memory of each, or of the machine."""
    for text, freer in (("", rules), *((f", with {text}", freer) for text, freer in _freed(topology, rules))):
        if (advice := _fewest_ranks(fits, topology, freer, text)) is not None:
            yield advice
            break

    def with_memory(gib: int) -> Advice:
        text = f"{gib} GiB a rank instead of {topology.memory / GIB:.4g} (`memory_gib: {gib}`)"
        return Advice(text, replace(topology, memory_gib=gib), rules)

    def with_host_memory(gib: int) -> Advice:
        text = f"{gib} GiB of the machine a rank instead of {topology.host_memory / GIB:.4g} (`host_memory_gib: {gib}`)"
        return Advice(text, replace(topology, host_memory_gib=gib), rules)

    if topology.device == "cpu":
        yield from _least(fits, with_memory, topology.memory // GIB, MOST_GIB)
    else:
        yield from _least(fits, with_memory, topology.memory // GIB, MOST_GPU_GIB)
        yield from _least(fits, with_host_memory, topology.host_memory // GIB, MOST_GIB)


def _fewest_ranks(fits: Check, topology: Topology, rules: Mapping[str, TableRule], text: str) -> Advice | None:
    """The first doubling of the ranks that fits."""
    ranks = topology.ranks * 2
    while ranks <= MOST_RANKS:
        local = topology.ranks_per_host
        if local is None and topology.device == "cuda" and ranks > MACHINE:
            local = MACHINE if ranks % MACHINE == 0 else topology.ranks
        machines = f", {local} a machine" if local is not None else ""
        more = replace(topology, ranks=ranks, ranks_per_host=local)
        if fits(advice := Advice(f"{ranks} ranks{machines}{text} (`ranks: {ranks}`)", more, rules)):
            return advice
        ranks *= 2
    return None


def _freer(fits: Check, topology: Topology, rules: Mapping[str, TableRule]) -> Iterator[Advice]:
    """The first of the freer rules that fits."""
    for text, freer in _freed(topology, rules):
        if fits(advice := Advice(f"allow {text}", topology, freer)):
            yield advice
            return


def _freed(topology: Topology, rules: Mapping[str, TableRule]) -> list[tuple[str, dict[str, TableRule]]]:
    """Rules that allow more: rows cut over the ranks, then the machine's memory beside GPUs too."""
    by_rows = {
        name: replace(rule, sharding=(*rule.sharding, "row_wise"))
        for name, rule in rules.items()
        if rule.sharding is not None and "row_wise" not in rule.sharding
    }
    steps = [("row_wise sharding of", by_rows)]
    if topology.device == "cuda":
        so_far = {**rules, **by_rows}
        steps.append(("every placement of", {n: replace(r, placement=None) for n, r in so_far.items() if r.placement}))
    found, text, freer = [], "", dict(rules)
    for what, freed in steps:
        if freed:
            text = f"{text}{' and ' if text else ''}{what} {', '.join(f'`{name}`' for name in freed)}"
            freer |= freed
            found.append((text, dict(freer)))
    return found


def _less_state(
    fits: Check, topology: Topology, rules: Mapping[str, TableRule], tables: Sequence[Table]
) -> Iterator[Advice]:
    """An optimizer that keeps one value for each row, where another keeps some for each weight."""
    if any(state_bytes(table.optimizer, table.rows, table.dim)[0] for table in tables):
        text = "row-wise Adagrad for the tables, whose state is 4 bytes a row (`table_optimizer: RowWiseAdagrad`)"
        if fits(advice := Advice(text, topology, rules, optimizer=RowWiseAdagrad)):
            yield advice


def _smaller(fits: Check, topology: Topology, rules: Mapping[str, TableRule], largest: Table) -> Iterator[Advice]:
    """A smaller largest table: fewer dimensions, or ids hashed to fewer rows."""
    name, rows, dim = largest.name, largest.rows, largest.dim

    def with_dim(quarter: int) -> Advice:
        text = f"{4 * quarter} dimensions of `{name}` instead of {dim}"
        return Advice(text, topology, rules, {name: (rows, 4 * quarter)})

    def with_rows(count: int) -> Advice:
        text = f"hash the ids of `{name}` to at most {count:,} rows instead of {rows:,}"
        return Advice(text, topology, rules, {name: (count, dim)})

    yield from _most(fits, with_dim, 1, dim // 4 - 1)
    yield from _most(fits, lambda count: with_rows(_round(count)), max(rows // MOST_TO_ONE, 1), rows - 1)


def _round(count: int) -> int:
    """The number with zeros after its second digit."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit


def _least(fits: Check, make: Callable[[int], Advice], below: int, most: int) -> Iterator[Advice]:
    """The advice of the least number above `below` that fits, where one up to `most` does."""
    high = max(2 * below, 1)
    while high <= most and not fits(make(high)):
        below, high = high, 2 * high
    if high <= most:
        while high - below > 1:
            middle = (below + high) // 2
            below, high = (below, middle) if fits(make(middle)) else (middle, high)
        yield make(high)


def _most(fits: Check, make: Callable[[int], Advice], least: int, most: int) -> Iterator[Advice]:
    """The advice of the largest number from `least` to `most` that fits, where one does."""
    if most < least or not fits(make(least)):
        return
    low, high = least, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(make(middle)) else (low, middle)
    yield make(low)
