"""Runs all checks that need a GPU, with random weights and without a download, in under eight minutes.

    python scripts/gpu_check.py [geometry=full] [parts=llava,waits,next,matrix] [methods=clasp,fastv]
                                [families=llava,qwen3_vl] [minutes=7.5] [results=results]

``llava``: LLaVA-1.5-7B's geometry in bfloat16, end to end at 192, 64 and 58 visual tokens, prefill at batch 1 and 8
against the FLOPs-ideal, peak memory. ``waits``: how often each stage of every method waits for the device, counted by
the profiler. ``next``: LLaVA-NeXT-7B's geometry, 2,880 tokens to 320 and 160. ``matrix``: every method on a small model
of every family must keep the same tokens on CPU and GPU in float32, and flash attention must be close to sdpa.
``geometry=small`` runs the same checks on thin models with few methods and families, also on a CPU.

Writes results/bench/gpu_check_<geometry>.json and .md after each part. Exit code 1 if tokens differ or a part
failed. A missed speed goal is stated on the page; the exit code is still 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not part of the installed package

from benchmarks.gpu_check.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], str(__doc__)))
