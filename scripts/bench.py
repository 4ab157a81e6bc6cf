"""Measures the speed of pruning, with random weights and without a download.

    python scripts/bench.py [measure=methods] [geometry=small] [tokens=64] [batches=1,8] [methods=clasp,fastv]
                            [repeats=3] [dtype=auto] [device=auto] [threads=N] [results=results]
    python scripts/bench.py measure=ops [geometry=small] [sizes=576,2880] [repeats=5] ...
    python scripts/bench.py measure=growth [geometry=small] [sizes=256,512,...,16384] [methods=clasp,fastv] ...
    python scripts/bench.py measure=profile [geometry=small] [batches=1,8] [methods=clasp] ...

``methods``: every method at one budget (default: the geometry's), with the time of each part, the end-to-end time for
POPE-like questions, peak memory, KV bytes, and ratios to the unpruned model and to the FLOPs-ideal. ``unpruned`` is the
unpatched model, ``none`` the engine with all tokens kept, and ``fastv, eager`` FastV on a model that computes whole
attention maps, as its official code requires. A method whose first stage comes too late for the budget gets a larger
one, which its row names; methods that a geometry does not support are listed with the reason. Geometries: tiny, small,
small_video (for CPUs; the last asks about videos, with the methods that compare frames), llava_1_5_7b, llava_next_7b,
qwen2_5_vl_7b (for GPUs; about 15 GB of weights).
``ops``: each selection op against one matrix product of its size. ``growth``: ops and whole prefills for 256 to 16,384
visual tokens, with a figure; on the LLaVA-1.5 geometries, ``small`` with 12 of its 16 decoder layers. ``profile``: time
of each part by operator.

All runs share one process; repeats are interleaved after an untimed round. ``dtype=auto`` selects the faster of float32
and bfloat16 on this machine. Writes results/bench/<geometry>.json and .md for methods, <geometry>_<measure> for the
others; for growth also .png and .svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
