"""Models: SynerGen, the baselines, and how they are saved."""
