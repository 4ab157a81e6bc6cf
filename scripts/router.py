"""The same as ``clasp-eval router``."""

from __future__ import annotations

import sys

from clasp.cli.commands import main

if __name__ == "__main__":
    sys.exit(main("router", sys.argv[1:]))
