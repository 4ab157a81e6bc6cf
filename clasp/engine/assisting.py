"""Assisted and prompt-lookup decoding: the prefill is that of the prompt alone.

`generate` passes the first candidates along with the prompt, where a method that looks at the prompt's end would look
at them. So a candidate generator's first offer is made, as its own state wants, and turned down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from clasp.backbones.base import UnsupportedError
from clasp.engine.hooks import Wrapped

_MAKES = "_get_candidate_generator"  # of transformers' GenerationMixin


def install(model: Any) -> Callable[[], None]:
    """Wraps what makes a model's candidate generators; returns what undoes it."""
    setattr(model, _MAKES, Wrapped(model, _MAKES, _made))
    return lambda: delattr(model, _MAKES)


def _made(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    early = getattr(kwargs.get("generation_config", args[0] if args else None), "assistant_early_exit", None)
    if early is not None:
        raise UnsupportedError(
            f"assistant_early_exit={early} lets a pruned model's first layers assist it, which "
            f"share its stages; use prompt_lookup_num_tokens or an assistant_model, or decode without"
        )
    generator = original(*args, **kwargs)
    offer, offers = generator.get_candidates, 0

    def get_candidates(ids: Tensor, *more: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        nonlocal offers
        offers += 1
        offered = offer(ids, *more, **options)
        return offered if offers > 1 else (ids, None)

    generator.get_candidates = get_candidates
    return generator
