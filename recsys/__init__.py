"""Recommender-system plugin for search and recommendation.

Importing `recsys` loads nothing heavy; import what you use from its packages (`recsys.features`, `recsys.models`, ...).
"""

from __future__ import annotations

__version__ = "0.1.0"
