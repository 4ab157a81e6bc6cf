"""The same as ``clasp-eval upper-bound``."""

from __future__ import annotations

import sys

from clasp.cli.commands import main

if __name__ == "__main__":
    sys.exit(main("upper-bound", sys.argv[1:]))
