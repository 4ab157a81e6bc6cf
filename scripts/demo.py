"""A local page to try methods on: your image and question, their answers side by side, and what each of them kept.

    python scripts/demo.py [port=7860] [backbone=tiny] [browser=1]

Listens on this machine alone and asks nothing of any other; from a remote machine, ``ssh -L 7860:localhost:7860``.
``port=0`` takes any that is free, ``backbone`` (a hub id or a model's folder) is the one chosen at first, ``browser=0``
opens none.
"""

from __future__ import annotations

import sys

from clasp.cli.demo import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
