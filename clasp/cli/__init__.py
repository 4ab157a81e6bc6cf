"""Command lines: arguments in, one exit code out. The topmost room; nothing imports it but `scripts/`."""
