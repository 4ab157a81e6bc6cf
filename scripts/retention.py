"""The same as ``clasp-eval retention``."""

from __future__ import annotations

import sys

from clasp.cli.jobs import compose_and_run

if __name__ == "__main__":
    sys.exit(compose_and_run("retention"))
