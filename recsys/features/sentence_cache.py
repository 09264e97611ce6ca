"""Embeddings of a log's sentences: made once, and kept by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.progress import Progress
from recsys.features.schema import Feature, Schema
from recsys.features.sentences import SentenceEncoder


@dataclass(frozen=True)
class EmbeddingCache:
    """Arrays in `<folder>/<name>.npy`, each complete or not there.

    Attributes:
        folder: where they are kept.
        scratch: where they are written before they get their name; on the same disk.
    """

    folder: Path
    scratch: Path

    def get(self, name: str) -> NDArray[np.float16] | None:
        """The array of that name, memory-mapped."""
        path = self.folder / f"{name}.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None

    def put(self, name: str, values: NDArray[np.float16]) -> None:
        """Keeps an array; a process that is killed leaves nothing under the name."""
        np.save(self.scratch / f"{name}.npy", values)
        self.folder.mkdir(parents=True, exist_ok=True)
        os.replace(self.scratch / f"{name}.npy", self.folder / f"{name}.npy")


@dataclass(frozen=True)
class SentenceEmbedder:
    """Embeds the texts of sentence features.

    Attributes:
        encoders: by the feature's name.
        cache: None keeps nothing.
        progress: told of the texts that are embedded.
    """

    encoders: Mapping[str, SentenceEncoder] = field(default_factory=dict)
    cache: EmbeddingCache | None = None
    progress: Progress | None = None

    def __call__(self, feature: Feature, texts: pd.Index) -> NDArray[np.float16]:
        """The embeddings of texts.

        Args:
            feature: of type `sentence`.
            texts: `[n]` distinct texts, n at least 1.

        Returns:
            `[n, dim]` float16.

        Raises:
            SentenceError: the encoder cannot be loaded.
        """
        encoder = self.encoders[feature.name]
        order = np.argsort(texts.to_numpy(dtype=object), kind="stable")
        ordered = texts[order].tolist()
        name = _name(encoder.identity, ordered)
        vectors = self.cache.get(name) if self.cache is not None else None
        if vectors is None:
            vectors = encoder.encode(ordered, lambda done: self._tell(feature, done, len(ordered)))
            if self.cache is not None:
                self.cache.put(name, vectors)
        out = np.empty(vectors.shape, dtype=np.float16)
        out[order] = vectors
        return out

    def _tell(self, feature: Feature, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(f"embedding {feature.name}", done, total)


def sentence_encoders(schema: Schema) -> dict[str, SentenceEncoder]:
    """The encoder of each sentence feature, by the feature's name.

    Raises:
        SentenceError: one is not there.
    """
    models = {str(feature.model) for feature in schema.features if feature.type == "sentence"}
    found = {model: SentenceEncoder.find(model) for model in sorted(models)}
    return {f.name: found[str(f.model)] for f in schema.features if f.type == "sentence"}


def _name(identity: str, texts: Sequence[str]) -> str:
    """Names an encoder and the texts that it embedded."""
    digest = hashlib.blake2b(identity.encode(), digest_size=16)
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
