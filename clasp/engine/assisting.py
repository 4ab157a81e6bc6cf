"""Assisted and prompt-lookup decoding: the prefill is that of the prompt alone.

`generate` passes the first candidate tokens along with the prompt, so that a method which reads attention at the
prompt's end would read it at the candidates. The first candidates are therefore discarded; they are still computed,
because the generator of candidates needs that for its own state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from clasp.backbones.base import UnsupportedError
from clasp.engine.hooks import Wrapped

_FACTORY = "_get_candidate_generator"  # of transformers' GenerationMixin


def install(model: Any) -> Callable[[], None]:
    """Wraps the model's factory of candidate generators; returns a function that removes the wrapper."""
    setattr(model, _FACTORY, Wrapped(model, _FACTORY, _without_first_candidates))
    return lambda: delattr(model, _FACTORY)


def _without_first_candidates(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    early = getattr(kwargs.get("generation_config", args[0] if args else None), "assistant_early_exit", None)
    if early is not None:
        raise UnsupportedError(
            f"assistant_early_exit={early} uses the first layers of the pruned model as its assistant, "
            f"where its stages lie; use prompt_lookup_num_tokens or an assistant_model, or decode without"
        )
    generator = original(*args, **kwargs)
    own_candidates, calls = generator.get_candidates, 0

    def get_candidates(ids: Tensor, *more: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        nonlocal calls
        calls += 1
        candidates = own_candidates(ids, *more, **options)
        return candidates if calls > 1 else (ids, None)

    generator.get_candidates = get_candidates
    return generator
