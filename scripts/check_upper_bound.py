"""As ``clasp-eval upper-bound``."""

from __future__ import annotations

import sys

from clasp.cli.upper_bound import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
