"""The command line. Only `scripts/` imports this package."""
