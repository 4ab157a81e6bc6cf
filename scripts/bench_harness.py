"""Times a sweep through the runner on the tiny backbone: a loop of single questions, without the ViT cache, as it is.

    python scripts/bench_harness.py [limit=32] [methods=none,random,...] [tokens=192,128,64] [benchmarks=tiny_gqa,...]
                                    [threads=N] [data=data] [results=results]

Writes results/bench/harness.json and .md, and prints the table; exit code 1 where answers differ. ``loop`` asks one
question at a time, prepares nothing ahead and remembers no ViT states; ``no cache`` departs from the default in the
last alone. Cells go into a folder that is thrown away.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks.harness import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
