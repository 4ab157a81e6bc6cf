"""``python -m clasp.cli COMMAND ...``."""

from __future__ import annotations

import sys

from clasp.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "clasp-eval"
    sys.exit(main())
