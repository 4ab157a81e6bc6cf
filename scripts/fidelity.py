"""The same as ``clasp-eval fidelity``."""

from __future__ import annotations

import sys

from clasp.cli.commands import main

if __name__ == "__main__":
    sys.exit(main("fidelity", sys.argv[1:]))
