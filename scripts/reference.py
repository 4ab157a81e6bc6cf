"""Keeps what is measured in results/ in results/reference/ and renews the README's copies of it."""

from __future__ import annotations

import sys
from pathlib import Path

from clasp.report.cells import ReportError
from clasp.report.reference import publish

if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    try:
        print("\n".join(f"wrote {path.relative_to(root)}" for path in publish(root / "results", root / "README.md")))
    except ReportError as error:
        sys.exit(f"error: {error}")
