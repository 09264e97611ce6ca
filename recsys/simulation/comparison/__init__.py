"""A champion against challengers in a simulated world: the experiment, its analyses, and what follows."""
