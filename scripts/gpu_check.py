"""Everything that only a GPU can show, on random weights and without a download, in one run of under eight minutes.

    python scripts/gpu_check.py [geometry=full] [parts=llava,waits,next,matrix,processes] [methods=clasp,fastv]
                                [families=llava,qwen3_vl] [minutes=7.5] [results=results]

``llava``: LLaVA-1.5-7B's shape in bfloat16 end to end at 192, 64 and 58 visual tokens, prefill at batch 1 and 8 against
the FLOPs-ideal, peak memory. ``waits``: how often each stage of every method waits for the device, counted by the
profiler. ``next``: LLaVA-NeXT-7B's shape, 2,880 tokens to 320 and 160. ``matrix``: every method on a small model of
every family keeps the same tokens on CPU and GPU in float32, and is near sdpa with flash attention. ``processes``: two
at once answer as one alone.
``geometry=small`` does the same on thin models with few methods and families, on a CPU too.

Writes results/bench/gpu_check_<geometry>.json and .md after each part; exit code 1 where tokens or answers differ or
something failed, 0 also where a goal of speed was missed, which the page says.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks.gpu_check.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
