"""As ``clasp-eval run``."""

from __future__ import annotations

import sys

from clasp.cli.hydra_commands import run

if __name__ == "__main__":
    sys.exit(run())
