"""What the columns of a log must be: checks in SQL, one pass over the data for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from recsys.features.tables import DataError, SourceTable, quote

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
WIDE_INTEGERS = {"UBIGINT", "HUGEINT", "UHUGEINT"}
FLOATS = {"FLOAT", "DOUBLE"}
TIMES = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"}
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LATEST = 10**11
"""Seconds from here on (the year 5138) are taken for a finer unit."""


@dataclass(frozen=True)
class Check:
    """A condition that no row may meet.

    Attributes:
        column: name of the column in the source.
        bad: SQL over the staged table, true for a row that cannot be used.
        problem: what is wrong, for the message.
        remedy: what to do about it.
    """

    column: str
    bad: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Column:
    """A column of the staged table: its source name, DuckDB type, and the SQL of its canonical value."""

    source: str
    type: str
    value: str
    checks: tuple[Check, ...] = ()


def is_string(kind: str) -> bool:
    """True for the types that are read as strings."""
    return kind in ("VARCHAR", "UUID") or kind.startswith("ENUM")


def is_decimal(kind: str) -> bool:
    """True for fixed-point types."""
    return kind.startswith("DECIMAL")


def no_nulls(name: str, column: str, remedy: str) -> Check:
    """Refuses missing values."""
    return Check(column, f"{name} IS NULL", "the value is missing", remedy)


def id_column(name: str, source: str, kind: str, where: str, text: bool = False, required: bool = True) -> Column:
    """A column of raw ids or categories: 64-bit integers or strings.

    Args:
        name: its name in the staged table.
        source: its name in the source.
        kind: its DuckDB type.
        where: the table, for messages.
        text: True when the source has no types and every value is a 64-bit integer.
        required: False allows missing values.

    Raises:
        DataError: the type is neither.
    """
    checks = (
        [] if not required else [no_nulls(name, source, "Drop these rows, or give the unknown id a value of its own")]
    )
    if kind in WIDE_INTEGERS:
        checks.append(
            Check(
                source,
                f"{name} IS NOT NULL AND try_cast({name} AS BIGINT) IS NULL",
                "{%s} does not fit 64 bits" % name,
                "Write the ids as strings",
            )
        )
    if kind in INTEGERS | WIDE_INTEGERS or text:
        return Column(source, kind, f"CAST({name} AS BIGINT)", tuple(checks))
    if is_string(kind):
        return Column(source, kind, f"CAST({name} AS VARCHAR)", tuple(checks))
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
    whole, fraction = f"CAST({name} AS BIGINT) // {factor}", f"CAST(floor({name} / {factor}) AS BIGINT)"
    checks = [no_nulls(name, source, "Drop these rows; an event needs a time")]
    if kind in INTEGERS | WIDE_INTEGERS:
        value = whole
    elif kind in FLOATS or is_decimal(kind):
        value = fraction
        finite = Check(source, f"NOT isfinite(CAST({name} AS DOUBLE))", "{%s} is not a time" % name, "Drop these rows")
        checks.append(finite)
    elif kind in TIMES:
        cast = name if kind == "TIMESTAMP WITH TIME ZONE" else f"CAST({name} AS TIMESTAMP)"
        value = f"epoch_us({cast}) // 1000000"
    elif is_string(kind):
        number = f"try_cast({name} AS DOUBLE)"
        iso = f"epoch_us(try_cast({name} AS TIMESTAMPTZ)) // 1000000"
        value = (
            f"CASE WHEN regexp_full_match({name}, '-?[0-9]+') THEN try_cast({name} AS BIGINT) // {factor} "
            f"WHEN isfinite({number}) THEN CAST(floor({number} / {factor}) AS BIGINT) ELSE {iso} END"
        )
        remedy = "Write Unix seconds or ISO 8601 (2024-05-31T12:00:00Z)"
        checks.append(Check(source, f"{name} IS NOT NULL AND ({value}) IS NULL", "`{%s}` is not a time" % name, remedy))
    else:
        raise DataError(f"{where}: column `{source}` has type {kind}; times must be numbers, dates or ISO 8601 text")
    checks += [
        Check(
            source, f"({value}) < 0", "{%s} is negative" % name, "Times are Unix seconds since 1970; drop these rows"
        ),
        *(
            Check(
                source,
                f"({value}) >= {LATEST * UNITS[finer] // 1000} AND ({value}) < {LATEST * UNITS[finer]}",
                "{%s} looks like %s" % (name, words),
                f"Set `events.timestamp_unit: {finer}` in the schema",
            )
            for finer, words in (("ms", "milliseconds"), ("us", "microseconds"), ("ns", "nanoseconds"))
        ),
    ]
    return Column(source, kind, value, tuple(checks))


def number_column(name: str, source: str, kind: str, where: str, bad: str, problem: str, remedy: str) -> Column:
    """A column of float32 numbers, all finite, none of which meets `bad` (SQL over `{value}`).

    Raises:
        DataError: the type holds no numbers.
    """
    if not (kind in INTEGERS | WIDE_INTEGERS | FLOATS | {"BOOLEAN"} or is_decimal(kind) or is_string(kind)):
        raise DataError(f"{where}: column `{source}` has type {kind}; it must hold numbers")
    value = f"try_cast({name} AS DOUBLE)"
    checks = [
        no_nulls(name, source, "Fill the gaps or drop these rows"),
        Check(source, f"{name} IS NOT NULL AND {value} IS NULL", "`{%s}` is not a number" % name, "Drop these rows"),
        Check(
            source, f"NOT isfinite({value})", "{%s} is not a finite number" % name, "Fill the gaps or drop these rows"
        ),
    ]
    if bad:
        checks.append(Check(source, bad.format(value=value), "{%s} %s" % (name, problem), remedy))
    return Column(source, kind, f"CAST({value} AS FLOAT)", tuple(checks))


def run_checks(
    connection: duckdb.DuckDBPyConnection, staged: str, source: SourceTable, checks: Sequence[Check]
) -> None:
    """Runs all checks in one pass and reports the first that fails.

    Args:
        connection: holds the staged table.
        staged: its name; it has a column `source_row`.
        source: where it came from.
        checks: in the order of importance.

    Raises:
        DataError: names file, column, first row, number of rows and remedy.
    """
    counts = ", ".join(f"count(*) FILTER (WHERE {c.bad}), min(source_row) FILTER (WHERE {c.bad})" for c in checks)
    found = connection.execute(f"SELECT {counts} FROM {staged}").fetchone() or ()
    for check, rows, first in zip(checks, found[::2], found[1::2], strict=True):
        if not rows:
            continue
        columns = [row[0] for row in connection.execute(f"DESCRIBE {staged}").fetchall()]
        listed = ", ".join(f"CAST({quote(column)} AS VARCHAR)" for column in columns)
        values = connection.execute(f"SELECT {listed} FROM {staged} WHERE source_row = {first}").fetchone() or ()
        problem = check.problem.format(**dict(zip(columns, values, strict=True)))
        file, row = source.locate(connection, first)
        others = f" ({rows:,} such rows)" if rows > 1 else ""
        raise DataError(f"{file}: column `{check.column}`, row {row} (from 0): {problem}{others}. {check.remedy}")
