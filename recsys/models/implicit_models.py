"""The models that `implicit` fits, under the import path that models saved before name."""

from recsys.models.als import ALS
from recsys.models.bpr import BPR
from recsys.models.item_item import BM25, TFIDF, Cosine

__all__ = ["ALS", "BM25", "BPR", "TFIDF", "Cosine"]
