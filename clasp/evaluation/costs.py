"""Mean costs per question: visual tokens by four token-count conventions, FLOPs by two formulas, bytes, time."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from clasp.budget import Geometry, token_counts
from clasp.cost import FORMULAS, prefill_flops

if TYPE_CHECKING:
    from clasp.evaluation.generation.answering import Answer

TERA = 1e12


def costs(answers: Sequence[Answer], geometry: Geometry, batch_size: int, device: str) -> dict[str, Any]:
    """Means per question.

    Args:
        answers: of one cell, at least one.
        geometry: of the backbone.
        batch_size, device: of the measurement, on which the seconds depend.

    Returns:
        ``visual_tokens`` (prompts without an image count as none), ``text_tokens``, ``new_tokens`` (generated, the end
        token included), ``tflops`` (decoder prefill, 1e12 multiply-adds), ``kv_bytes`` (measured after the prefill,
        padding included), ``seconds``.
    """
    blank = (0,) * geometry.layers
    counted = [token_counts(a.entering or blank, a.leaving or blank, a.nominal) for a in answers]
    flops = {
        formula: fmean(prefill_flops(geometry, a.entering or blank, a.text_tokens, formula) for a in answers) / TERA
        for formula in FORMULAS
    }
    return {
        "visual_tokens": {
            name: fmean(getattr(count, name) for count in counted)
            for name in ("nominal", "output_average", "input_average", "final")
        },
        "text_tokens": fmean(a.text_tokens for a in answers),
        "new_tokens": fmean(a.new_tokens for a in answers),
        "tflops": flops,
        "kv_bytes": fmean(a.kv_bytes for a in answers),
        "seconds": {
            name: fmean(getattr(a.seconds, name) for a in answers) for name in ("vision", "prefill", "decode", "total")
        },
        "batch_size": batch_size,
        "device": device,
    }


def device_name(device: Any) -> str:
    """The model name of the GPU or CPU: ``NVIDIA H100 80GB HBM3`` or ``Intel(R) Xeon(R) ... (2 threads)``."""
    import torch

    if getattr(device, "type", str(device)) == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name} ({torch.get_num_threads()} threads)"
