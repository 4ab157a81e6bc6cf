"""The same as ``clasp-eval status``."""

from __future__ import annotations

import sys

from clasp.cli.commands import main

if __name__ == "__main__":
    sys.exit(main("status", sys.argv[1:]))
