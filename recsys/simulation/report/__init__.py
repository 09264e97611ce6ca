"""What comparisons and off-policy estimates say, as pages for people."""
