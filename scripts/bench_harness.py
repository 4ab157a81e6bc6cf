"""Times a sweep on the tiny backbone in three setups: a loop of single questions, no ViT cache, and the default.

    python scripts/bench_harness.py [limit=32] [methods=none,random,...] [tokens=192,128,64] [benchmarks=tiny_gqa,...]
                                    [threads=N] [data=data] [results=results]

Writes results/bench/harness.json and .md, and prints the table; exit code 1 if answers differ. ``loop`` runs one
question at a time, prefetches nothing and caches no ViT states; ``no cache`` is the default without the ViT cache.
Cells are written to a temporary folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks.harness import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
