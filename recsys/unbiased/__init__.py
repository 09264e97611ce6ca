"""Learning from biased feedback: propensities, click models, and losses that correct for who saw what."""
