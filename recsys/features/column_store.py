"""Where the columns of a log go while they are written: into memory, or into `.npy` files that grow."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

Chunk = dict[str, NDArray[Any]]


class ColumnSink(Protocol):
    """Takes a log chunk by chunk and gives it back as whole columns."""

    def append(self, chunk: Chunk) -> None:
        """Adds rows; every chunk has the same columns and dtypes."""

    def close(self) -> Chunk:
        """The columns."""


class MemorySink:
    """Columns in memory."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def append(self, chunk: Chunk) -> None:
        """Adds rows."""
        self._chunks.append(chunk)

    def close(self) -> Chunk:
        """The columns, `[rows]` each."""
        return {name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}


class NpyWriter:
    """A one-dimensional `.npy` file that grows; its header tells the length when it is closed."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file: BinaryIO = path.open("wb")
        self._dtype = dtype
        self._rows = 0
        self._write_header()
        self._header_bytes = self._file.tell()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._rows,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: NDArray[Any]) -> None:
        """Adds values."""
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._rows += len(values)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Completes the header; numpy leaves room in it for a longer length."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header_bytes:
            raise AssertionError("the header of a .npy file changed its size")
        self._file.close()


class FileSink:
    """Columns in `<folder>/<name>.npy`; memory does not grow with the log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._writers: dict[str, NpyWriter] = {}

    def append(self, chunk: Chunk) -> None:
        """Adds rows."""
        for name, values in chunk.items():
            if name not in self._writers:
                self._writers[name] = NpyWriter(self._folder / f"{name}.npy", values.dtype)
            self._writers[name].append(values)

    def close(self) -> Chunk:
        """The columns, memory-mapped."""
        for writer in self._writers.values():
            writer.close()
        return {name: np.load(self._folder / f"{name}.npy", mmap_mode="r") for name in self._writers}
