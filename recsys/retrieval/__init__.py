"""Exact top-k over the whole catalogue."""
