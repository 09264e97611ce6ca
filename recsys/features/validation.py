"""What the columns of a log must be: checks in SQL, one pass over the data for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from recsys.features.tables import ROW, DataError, SourceTable, fetch_row

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
WIDE_INTEGERS = {"UBIGINT", "HUGEINT", "UHUGEINT"}
FLOATS = {"FLOAT", "DOUBLE"}
TIMES = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"}
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNIT_NAMES = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LATEST = 10**11
"""Seconds from here on (the year 5138) are taken for a finer unit."""


@dataclass(frozen=True)
class Check:
    """A condition that no row may meet.

    Attributes:
        name: the staged column, as SQL; the message shows its value where `problem` says `{value}`.
        source: name of the column in the source.
        bad: SQL over the staged table, true for a row that cannot be used.
        problem: what is wrong, for the message.
        remedy: what to do about it.
    """

    name: str
    source: str
    bad: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Column:
    """A column of the staged table.

    Attributes:
        source: its name in the source.
        value: SQL of its canonical value.
        checks: what must not be in it.
    """

    source: str
    value: str
    checks: tuple[Check, ...] = ()


def is_string(kind: str) -> bool:
    """True for the DuckDB types that are read as strings."""
    return kind in ("VARCHAR", "UUID") or kind.startswith("ENUM")


def is_number(kind: str) -> bool:
    """True for the DuckDB types of numbers."""
    return kind in INTEGERS | WIDE_INTEGERS | FLOATS or kind.startswith("DECIMAL")


def no_nulls(name: str, source: str, remedy: str) -> Check:
    """Refuses missing values."""
    return Check(name, source, f"{name} IS NULL", "the value is missing", remedy)


def id_column(name: str, source: str, kind: str, where: str, integers: bool = False, required: bool = True) -> Column:
    """A column of raw ids or categories: 64-bit integers or strings.

    Args:
        name: the staged column, as SQL.
        source: its name in the source.
        kind: its DuckDB type.
        where: the table, for messages.
        integers: reads strings as integers.
        required: False allows missing values.

    Raises:
        DataError: the type is neither.
    """
    remedy = "Drop these rows, or give the unknown id a value of its own"
    checks = [no_nulls(name, source, remedy)] if required else []
    if kind in INTEGERS | WIDE_INTEGERS or integers:
        value = f"try_cast({name} AS BIGINT)"
        too_large = f"{name} IS NOT NULL AND {value} IS NULL"
        checks.append(Check(name, source, too_large, "{value} does not fit 64 bits", "Write the ids as strings"))
        return Column(source, value, tuple(checks))
    if is_string(kind):
        return Column(source, f"CAST({name} AS VARCHAR)", tuple(checks))
    raise DataError(
        f"{where}: column `{source}` has type {kind}; ids must be integers or strings. "
        "Cast the column (a float id usually comes from missing values: drop those rows first)"
    )


def time_column(name: str, source: str, kind: str, where: str, unit: str) -> Column:
    """A column of times as int64 Unix seconds: numbers in the schema's unit, dates, or ISO 8601 text.

    Raises:
        DataError: the type holds no time.
    """
    factor = UNITS[unit]
    whole = f"try_cast({name} AS BIGINT) // {factor}"
    fraction = f"try_cast(floor(try_cast({name} AS DOUBLE) / {factor}) AS BIGINT)"
    if kind in INTEGERS | WIDE_INTEGERS:
        value = whole
    elif is_number(kind):
        value = fraction
    elif kind == "TIMESTAMP WITH TIME ZONE":
        value = f"epoch_us({name}) // 1000000"
    elif kind in TIMES:
        value = f"epoch_us(CAST({name} AS TIMESTAMP)) // 1000000"
    elif is_string(kind):
        number = f"CASE WHEN regexp_full_match({name}, '[-+]?[0-9]+') THEN {whole} ELSE {fraction} END"
        value = f"coalesce({number}, epoch_us(try_cast({name} AS TIMESTAMPTZ)) // 1000000)"
    else:
        raise DataError(f"{where}: column `{source}` has type {kind}; times must be numbers, dates or ISO 8601 text")
    checks = [
        no_nulls(name, source, "Drop these rows; an event needs a time"),
        Check(
            name,
            source,
            f"{name} IS NOT NULL AND ({value}) IS NULL",
            "`{value}` is not a time",
            "Write Unix seconds or ISO 8601 (2024-05-31T12:00:00Z), or drop these rows",
        ),
        Check(
            name, source, f"({value}) < 0", "{value} is negative", "Times count from 1970; correct or drop these rows"
        ),
        *_finer_units(name, source, value, unit),
    ]
    return Column(source, value, tuple(checks))


def _finer_units(name: str, source: str, value: str, unit: str) -> list[Check]:
    """Refuses times so late that they must be meant in a finer unit than the schema's, and names that unit."""
    finer = [candidate for candidate in UNITS if UNITS[candidate] > UNITS[unit]]
    checks = []
    for candidate in finer:
        ratio = UNITS[candidate] // UNITS[unit]
        below = "" if candidate == finer[-1] else f" AND ({value}) < {LATEST * ratio}"
        bad = f"({value}) >= {LATEST * ratio // 1000}{below}"
        remedy = f"Set `events.timestamp_unit: {candidate}` in the schema, or correct the time"
        checks.append(Check(name, source, bad, f"{{value}} looks like {_UNIT_NAMES[candidate]}", remedy))
    return checks


def number_column(
    name: str,
    source: str,
    kind: str,
    where: str,
    target: str = "FLOAT",
    bad: str = "",
    problem: str = "",
    remedy: str = "",
) -> Column:
    """A column of numbers: none missing, all finite in the target type, none that meets `bad` (SQL over `{value}`).

    Raises:
        DataError: the type holds no numbers.
    """
    if not (is_number(kind) or is_string(kind) or kind == "BOOLEAN"):
        raise DataError(f"{where}: column `{source}` has type {kind}; it must hold numbers")
    value = f"try_cast({name} AS DOUBLE)"
    checks = [
        no_nulls(name, source, "Fill the gaps or drop these rows"),
        Check(
            name,
            source,
            f"{name} IS NOT NULL AND NOT coalesce(isfinite(try_cast({value} AS FLOAT)), false)",
            "`{value}` is not a finite number",
            "Fill the gaps or drop these rows",
        ),
    ]
    if bad:
        checks.append(Check(name, source, bad.format(value=value), f"{{value}} {problem}", remedy))
    return Column(source, f"CAST({value} AS {target})", tuple(checks))


def run_checks(
    connection: duckdb.DuckDBPyConnection, staged: str, source: SourceTable, checks: Sequence[Check]
) -> None:
    """Runs all checks in one pass and reports the first that fails.

    Args:
        connection: holds the staged table.
        staged: its name; it has a column `ROW`.
        source: where it came from.
        checks: in the order of importance.

    Raises:
        DataError: names file, column, first row, number of rows and remedy.
    """
    counts = ", ".join(f"count(*) FILTER (WHERE {c.bad}), min({ROW}) FILTER (WHERE {c.bad})" for c in checks)
    found = fetch_row(connection, f"SELECT {counts} FROM {staged}")
    for check, rows, first in zip(checks, found[::2], found[1::2], strict=True):
        if rows:
            query = f"SELECT CAST({check.name} AS VARCHAR) FROM {staged} WHERE {ROW} = {first}"
            problem = check.problem.format(value=fetch_row(connection, query)[0])
            file, row = source.locate(connection, first)
            others = f" ({rows:,} such rows)" if rows > 1 else ""
            raise DataError(f"{file}: column `{check.source}`, row {row} (from 0): {problem}{others}. {check.remedy}")
