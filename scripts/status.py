"""As ``clasp-eval status``."""

from __future__ import annotations

import sys

from clasp.cli.status import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
