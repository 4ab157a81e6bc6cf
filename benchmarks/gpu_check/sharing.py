"""Two processes on one device: each must give the same answers as a single process.

A worker (``python -m benchmarks.gpu_check.sharing``) loads the model, prints the line ``ready``, and then answers each
input line with one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 8
"""Prompts that a worker answers per request."""


def run(geometry: str, device: str, until: float) -> dict[str, Any]:
    """Seconds and answers of one process alone and of two concurrent processes.

    Raises:
        RuntimeError: a worker ended before it answered; the message contains its last output.
        TimeoutError: the time limit passed first.
    """
    workers = [_Worker(geometry, device) for _ in range(2)]
    try:
        for worker in workers:
            worker.read("ready", until)
        workers[0].ask()
        alone = json.loads(workers[0].read("{", until))
        started = time.monotonic()
        for worker in workers:
            worker.ask()
        together = [json.loads(worker.read("{", until)) for worker in workers]
        seconds = time.monotonic() - started
    finally:
        for worker in workers:
            worker.end()
    return {
        "rounds": ROUNDS,
        "alone_s": alone["seconds"],
        "together_s": [one["seconds"] for one in together],
        "both_s": seconds,
        "speedup_over_one_after_the_other": 2 * alone["seconds"] / seconds,
        "same": all(one["answers"] == alone["answers"] for one in together),
        "peak_bytes": [one["peak_bytes"] for one in together],
    }


class _Worker:
    """A worker process that waits for requests."""

    def __init__(self, geometry: str, device: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_check.sharing", geometry, device],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def read(self, beginning: str, until: float) -> str:
        """The next line with this beginning; kills the process if it has not printed the line by the time limit."""
        assert self._process.stdout is not None
        heard: list[str] = []
        timer = threading.Timer(max(0.0, until - time.monotonic()), self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.startswith(beginning):
                    return line
                heard.append(line)
        finally:
            timer.cancel()
        if time.monotonic() >= until:
            raise TimeoutError("time was over before two processes had answered; give the check more minutes")
        raise RuntimeError(f"a process ended before it answered: {' '.join(''.join(heard[-5:]).split())[-300:]}")

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def work(arguments: Sequence[str]) -> None:
    """Main function of a worker."""
    import torch

    from benchmarks.gpu_check.scales import SCALES
    from benchmarks.models import load_spec
    from clasp.methods.clasp.method import CLASP

    geometry, device = arguments
    scale = SCALES[geometry]
    loaded = load_spec(scale.shared, getattr(torch, scale.dtype), device)
    method = CLASP(tokens=scale.llava.tokens[-2], router="keyword")
    prompts = loaded.prompts(1)

    def answer() -> list[Any]:
        """For one prompt: number of kept tokens, and the generated tokens."""
        with method(loaded.model, loaded.processor) as run, torch.inference_mode():
            output = loaded.model.generate(**prompts, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert run.trace is not None
        kept = [stage.tolist() for stage in run.trace.samples[0].kept]
        return [zlib.crc32(repr(kept).encode()), output[0, -4:].tolist()]

    answer()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.monotonic()
        answers = [answer() for _ in range(ROUNDS)]
        seconds = time.monotonic() - started
        peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
        print(json.dumps({"seconds": seconds, "answers": answers, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    work(sys.argv[1:])
