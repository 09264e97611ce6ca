"""Item vectors in an index of FAISS, built the same way every time, and kept in a folder without a pickle."""

from __future__ import annotations

import abc
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.disk import sync_tree
from recsys.models.artefact import file_sha256

INDEX, MANIFEST = "index.faiss", "index.json"
_BLOCK = 2**16
_VERSION = 1
_BITS = 8
"""Of each code."""


class IndexFileError(ValueError):
    """The folder of an index that cannot be written or trusted; the message names it."""


@dataclass(frozen=True)
class IndexKind(abc.ABC):
    """How items are indexed. A subclass is a frozen dataclass of the settings.

    Attributes:
        name: in the manifest of a saved index.
        complete: whether all items are found where as many as there are are asked for.
        refine: items asked for each that is wanted, for the best by exact score to be among them.

    Raises:
        ValueError: a setting is out of range.
    """

    name: ClassVar[str]
    complete: ClassVar[bool] = False
    refine: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            self._check(name, value, 0 if name == "seed" else 1)

    def _check(self, name: str, value: int, least: int) -> None:
        if value < least:  # with some of these FAISS ends the process
            raise ValueError(f"{self.name}: {name} must be at least {least}, not {value}")

    @abc.abstractmethod
    def empty(self, d: int) -> Any:
        """An index of FAISS for inner products of `d` dimensions."""

    def train(self, index: Any, sample: NDArray[np.float32]) -> None:
        """Learns from item vectors `[n, d]` what the index must know before it takes any."""
        index.train(sample)

    def search_parameters(self, n: int) -> Any:
        """Those of FAISS for n items a user; None: its own."""
        return None


@dataclass(frozen=True)
class Flat(IndexKind):
    """All vectors as they are: exact up to rounding, as slow as a matrix product."""

    name = "flat"
    complete = True

    def empty(self, d: int) -> Any:
        return _faiss().IndexFlatIP(d)


@dataclass(frozen=True)
class IVFPQ(IndexKind):
    """Inverted lists of product-quantised vectors: a few bytes an item, few lists looked at.

    Attributes:
        lists: into which items are divided.
        probes: lists that are looked at for a user.
        codes: bytes an item; divides the number of dimensions once they are padded with zeros.
        seed: of k-means.
        sample: items that k-means learns from at most.
        refine: items asked for each that is wanted.
    """

    refine: int = 4
    lists: int = 1024
    probes: int = 64
    codes: int = 32
    seed: int = 0
    sample: int = 200_000
    name = "ivf_pq"

    def empty(self, d: int) -> Any:
        faiss = _faiss()
        padded = -(-d // self.codes) * self.codes
        quantizer = faiss.IndexFlatIP(padded)
        ivf = faiss.IndexIVFPQ(quantizer, padded, self.lists, self.codes, _BITS, faiss.METRIC_INNER_PRODUCT)
        ivf.cp.seed = ivf.pq.cp.seed = self.seed
        ivf.nprobe = self.probes
        quantizer.this.disown()
        ivf.own_fields = True
        return ivf

    def train(self, index: Any, sample: NDArray[np.float32]) -> None:
        if len(sample) > self.sample:
            chosen = np.random.default_rng(self.seed).choice(len(sample), self.sample, replace=False)
            sample = sample[np.sort(chosen)]
        if len(sample) < (least := max(self.lists, 2**_BITS)):
            raise ValueError(
                f"ivf_pq learns from {len(sample)} items, but {self.lists} lists, or {_BITS} bits of a code, want "
                f"{least} at least: give fewer `lists`, or take `Flat`"
            )
        super().train(index, sample)

    def search_parameters(self, n: int) -> Any:
        return _faiss().SearchParametersIVF(nprobe=self.probes)


@dataclass(frozen=True)
class HNSW(IndexKind):
    """A graph of neighbours: whole vectors and 8 `links` bytes an item, quick, and good where norms are alike.

    Attributes:
        links: of an item.
        build_width: candidates looked at while an item is linked.
        search_width: candidates looked at for a user, at least as many as items are wanted.
    """

    links: int = 32
    build_width: int = 100
    search_width: int = 200
    name = "hnsw"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("links", self.links, 2)

    def empty(self, d: int) -> Any:
        faiss = _faiss()
        index = faiss.IndexHNSWFlat(d, self.links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.build_width
        return index

    def search_parameters(self, n: int) -> Any:
        return _faiss().SearchParametersHNSW(efSearch=max(n, self.search_width))


_KINDS: dict[str, type[IndexKind]] = {kind.name: kind for kind in (Flat, IVFPQ, HNSW)}


class ItemIndex:
    """Items that are near to a user by an index of FAISS, most likely the nearest. Needs the extra `ann`.

    Attributes:
        kind: of the index.
        n_items: ids 1..n_items are in it.
        d: dimensions of the vectors.
    """

    def __init__(self, index: Any, kind: IndexKind, n_items: int, d: int) -> None:
        self._index, self.kind, self.n_items, self.d = index, kind, n_items, d

    @classmethod
    def build(cls, vectors: Tensor, kind: IndexKind, threads: int = 1) -> Self:
        """Builds the index of a catalogue.

        Args:
            vectors: `[n_items + 1, d]` float32 on the CPU; row 0 is padding and left out.
            kind: and its settings.
            threads: of FAISS. With 1 the same vectors always give the same index; with more a graph is linked in
                another order each time.

        Raises:
            ImportError: FAISS is not installed.
            ValueError: there is no item, or a vector is NaN or infinite.

        Example:
            >>> index = ItemIndex.build(torch.eye(4), Flat())
            >>> index.search(torch.tensor([[0.0, 1, 3, 2]]), 2).tolist()
            [[2, 3]]
        """
        n, d = len(vectors) - 1, vectors.shape[1]
        if n < 1:
            raise ValueError("an index needs one item at least")
        if not all(torch.isfinite(rows).all() for rows in vectors[1:].split(_BLOCK)):
            raise ValueError("the model gave item vectors that are NaN or infinite")
        index = kind.empty(d)
        with _threads(threads):
            kind.train(index, _padded(vectors[1:], index.d))
            for rows in vectors[1:].split(_BLOCK):
                index.add(_padded(rows, index.d))
        return cls(index, kind, n, d)

    def search(self, users: Tensor, n: int) -> Tensor:
        """`[B, n]` int64 ids for user vectors `[B, d]` float32, nearest first; 0 where the index gives no more.

        Raises:
            ValueError: a user vector is NaN or infinite.
        """
        if not torch.isfinite(users).all():
            raise ValueError("the model gave user vectors that are NaN or infinite")
        if not len(users):
            return torch.zeros(0, n, dtype=torch.int64)
        with _threads(torch.get_num_threads()):
            _, rows = self._index.search(_padded(users, self._index.d), n, params=self.kind.search_parameters(n))
        return torch.from_numpy(rows + 1)  # FAISS says -1 where it has no more

    def save(self, folder: str | Path) -> None:
        """Writes the index to a folder that does not exist yet; it appears complete or not at all.

        Raises:
            IndexFileError: the folder exists.
        """
        folder = Path(folder).absolute()
        if folder.exists():
            raise IndexFileError(f"{folder}: exists; remove it or choose another folder for the index")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            _faiss().write_index(self._index, str(temporary / INDEX))
            manifest = {
                "version": _VERSION,
                "kind": self.kind.name,
                "settings": asdict(self.kind),
                "n_items": self.n_items,
                "dimensions": self.d,
                "faiss": _faiss().__version__,
                "sha256": file_sha256(temporary / INDEX),
            }
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            os.chmod(temporary, 0o755)
            sync_tree(temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads an index that `save` wrote, after checking its file.

        Raises:
            IndexFileError: a file is missing or altered, or of another version.
            ImportError: FAISS is not installed.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            if manifest["version"] != _VERSION:
                raise IndexFileError(f"{folder / MANIFEST}: of another version; build the index again")
            kind = _KINDS[manifest["kind"]](**manifest["settings"])
            n_items, d, digest = manifest["n_items"], manifest["dimensions"], manifest["sha256"]
        except OSError:
            raise IndexFileError(f"{folder}: no saved index here ({MANIFEST} is missing)") from None
        except IndexFileError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise IndexFileError(f"{folder / MANIFEST}: not a manifest of an index ({error}); build it again") from None
        path = folder / INDEX
        if not path.is_file():
            raise IndexFileError(f"{path}: missing; copy the folder again or build the index again")
        if file_sha256(path) != digest:
            raise IndexFileError(f"{path}: altered since it was saved (SHA-256 differs); build the index again")
        return cls(_faiss().read_index(str(path)), kind, n_items, d)


def _padded(rows: Tensor, d: int) -> NDArray[np.float32]:
    return torch.nn.functional.pad(rows, (0, d - rows.shape[1])).contiguous().numpy()


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate retrieval needs FAISS: pip install 'recsys[ann]'") from error
    return faiss
