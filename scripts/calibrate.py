"""As ``clasp-eval calibrate``."""

from __future__ import annotations

import sys

from clasp.cli.hydra_commands import calibrate

if __name__ == "__main__":
    sys.exit(calibrate())
