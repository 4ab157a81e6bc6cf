"""Times every method side by side on a backbone's geometry, with random weights and without a download.

    python scripts/bench.py [geometry=small] [tokens=64] [batches=1,8] [repeats=3] [methods=clasp,fastv] [dtype=auto]
                            [device=auto] [threads=N] [results=results]

Writes results/bench/<geometry>.json and .md, and prints the table. One process, interleaved repeats after a round that
is not counted. ``unpruned`` is the plain model, ``none`` the engine with all tokens kept, and ``fastv, eager`` FastV on
a model that computes whole attention maps, as its official code needs. ``dtype=auto``: the faster of float32 and
bfloat16 here.
"""

from __future__ import annotations

import sys

from clasp.bench.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
