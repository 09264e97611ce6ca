"""Experiments before traffic is spent: simulated users, off-policy estimates, and the statistics of a live test."""
