"""The same as ``clasp-eval demo``."""

from __future__ import annotations

import sys

from clasp.cli.demo import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
