"""Simulated users whose truth is known, and experiments between policies on them."""
