"""As ``clasp-eval prefetch``."""

from __future__ import annotations

import sys

from clasp.cli.hydra_commands import prefetch

if __name__ == "__main__":
    sys.exit(prefetch())
