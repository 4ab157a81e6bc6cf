"""The same as ``clasp-eval judge``."""

from __future__ import annotations

import sys

from clasp.cli.judge import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
