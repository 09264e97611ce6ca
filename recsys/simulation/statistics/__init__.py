"""Statistics of a live test between two arms: effects, sequential tests, planning, interleaving."""
