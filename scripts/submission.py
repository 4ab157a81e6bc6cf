"""As ``clasp-eval submission``."""

from __future__ import annotations

import sys

from clasp.cli.submission import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
