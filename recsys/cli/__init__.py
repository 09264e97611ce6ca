"""The `recsys` command; one module per sub-command."""
