"""Source tables: Parquet or CSV files, folders, globs and DataFrames, seen by DuckDB as one relation."""

from __future__ import annotations

import difflib
import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

TableInput = str | Path | Sequence[str | Path] | pd.DataFrame
"""A file, several files, a folder or glob of files, or a DataFrame."""

_READERS = {
    ".parquet": "read_parquet({files})",
    # Everything as text: a sniffed type is a guess from a sample, and would turn the id `007` into 7.
    ".csv": "read_csv({files}, all_varchar = true, header = true)",
}


ROW = "__source_row"
"""Column of every attached table: rises with the row's place in the source."""

_FILE_SHIFT = 40
"""A row of a Parquet file is numbered `(index of the file << 40) + row within it`, so that scans stay parallel."""


class DataError(ValueError):
    """Data that cannot be used; the message names the table, the column, the row and the remedy."""


@dataclass(frozen=True)
class SourceTable:
    """One input table.

    Attributes:
        role: `events`, `items` or `users`; it names the table where there is no file to name.
        files: the files, in the order in which their rows are numbered (sorted by path within a folder).
        frame: the data, when it was given as a DataFrame.
    """

    role: str
    files: tuple[Path, ...] = ()
    frame: pa.Table | None = None

    @classmethod
    def of(cls, role: str, source: TableInput) -> SourceTable:
        """Finds the files of `source`.

        Raises:
            DataError: there is no such file, or the files are not all Parquet or all CSV.
        """
        if isinstance(source, pd.DataFrame):
            try:
                frame = pa.Table.from_pandas(source, preserve_index=False)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise DataError(f"{role} frame: {error}; give every column one type") from None
            for column in frame.schema:
                if "halffloat" in str(column.type):  # DuckDB reads them from Parquet only
                    raise DataError(f"{role} frame: column `{column.name}` holds 16-bit floats. Make them float32")
            return cls(role, frame=frame)
        paths = [source] if isinstance(source, str | Path) else list(source)
        files = [file for path in paths for file in _files(role, Path(path))]
        kinds = sorted({_kind(file) for file in files})
        if len(kinds) != 1 or kinds[0] not in _READERS:
            found = ", ".join(kind or "no suffix" for kind in kinds)
            raise DataError(f"{role}: {files[0]}: files must be all Parquet or all CSV; found {found}")
        return cls(role, tuple(files))

    @property
    def label(self) -> str:
        """The table as messages call it."""
        if not self.files:
            return f"{self.role} frame"
        return str(self.files[0]) if len(self.files) == 1 else f"{self.files[0].parent} ({len(self.files)} files)"

    @property
    def is_text(self) -> bool:
        """True when the source has no types (CSV)."""
        return bool(self.files) and _kind(self.files[0]) == ".csv"

    def fingerprint(self) -> str:
        """Hash of the content; names and times of files do not matter."""
        if self.frame is not None:
            sink = _HashSink()
            with pa.ipc.new_stream(sink, self.frame.schema.remove_metadata()) as stream:
                stream.write_table(self.frame.replace_schema_metadata(), max_chunksize=1 << 20)
            return sink.digest.hexdigest()
        digest = hashlib.blake2b(digest_size=16)
        for path in self.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
        return digest.hexdigest()

    def attach(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """Makes the table known to `connection` under the name of its role.

        Returns:
            Column name -> DuckDB type.

        Raises:
            DataError: a file cannot be read.
        """
        row = "row_number() OVER () - 1"
        if self.frame is not None:
            connection.register(f"{self.role}_frame", self.frame)
            relation = f"{self.role}_frame"
        else:
            relation = self._reader(self.files)
            if not self.is_text:
                row = f"(CAST(file_index AS BIGINT) << {_FILE_SHIFT}) + file_row_number"
        try:
            connection.execute(f"CREATE TEMP VIEW {self.role} AS SELECT *, {row} AS {ROW} FROM {relation}")
            described = connection.execute(f"DESCRIBE {self.role}").fetchall()
        except duckdb.Error as error:
            raise self.unreadable(error) from None
        return {column: kind for column, kind, *_ in described if column != ROW}

    def unreadable(self, error: duckdb.Error) -> DataError:
        """The error to raise when DuckDB fails on the source."""
        return DataError(f"{self.label}: cannot be read: {error}")

    def locate(self, connection: duckdb.DuckDBPyConnection, row: int) -> tuple[str, int]:
        """The file (or frame) of a row, and the row's number in it, from 0.

        Args:
            connection: DuckDB.
            row: a value of the column `ROW`.
        """
        if self.files and not self.is_text:
            return str(self.files[row >> _FILE_SHIFT]), row & ((1 << _FILE_SHIFT) - 1)
        for file in self.files:
            (rows,) = fetch_row(connection, f"SELECT count(*) FROM {self._reader((file,))}")
            if row < rows:
                return str(file), row
            row -= rows
        return self.label, row

    def _reader(self, files: tuple[Path, ...]) -> str:
        """The files as SQL."""
        listed = "[" + ", ".join(_literal(str(file)) for file in files) + "]"
        return _READERS[_kind(files[0])].format(files=listed)

    def require(self, columns: Iterable[tuple[str, str]], existing: Iterable[str]) -> None:
        """Checks that columns exist.

        Args:
            columns: (key of the schema, column it names).
            existing: the table's columns.

        Raises:
            DataError: a column is missing; similar names are suggested.
        """
        existing = list(existing)
        for key, column in columns:
            if column not in existing:
                near = difflib.get_close_matches(column, existing, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else ""
                raise DataError(
                    f"{self.label}: no column `{column}`; {hint}The table has {', '.join(existing)}. "
                    f"Set `{key}` in the schema to the column's name"
                )


class _HashSink:
    """A file that keeps the hash of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        self.closed = True


def fetch_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The only row of a query."""
    (row,) = connection.execute(query).fetchall()
    return tuple(row)


def fetch_table(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """The result of a query, in memory."""
    return connection.sql(query).to_arrow_table()


def quote(name: str) -> str:
    """A column name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _kind(file: Path) -> str:
    """The suffix that decides the reader; `.tsv` and compressed text are CSV to DuckDB."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in (".gz", ".zst")]
    last = suffixes[-1].lower() if suffixes else ""
    return {".tsv": ".csv", ".pq": ".parquet"}.get(last, last)


def _files(role: str, path: Path) -> list[Path]:
    """The data files that a path means."""
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) in _READERS)
        if not found:
            raise DataError(f"{role}: {path}: the folder holds no .parquet or .csv file")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise DataError(f"{role}: {path}: no such file, folder or pattern")
    return found
