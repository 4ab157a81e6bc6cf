"""As ``clasp-eval plan``."""

from __future__ import annotations

import sys

from clasp.cli.hydra_commands import plan

if __name__ == "__main__":
    sys.exit(plan())
