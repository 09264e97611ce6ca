"""Training on positives of which some are noise: who is likely to be noise is read off each user's own losses."""
