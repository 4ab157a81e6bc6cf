"""The same as ``clasp-eval report``."""

from __future__ import annotations

import sys

from clasp.cli.report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
