"""As ``clasp-eval retention``."""

from __future__ import annotations

import sys

from clasp.cli.hydra_commands import retention

if __name__ == "__main__":
    sys.exit(retention())
