"""Mixed precision: the model's own modules run in it, what a method computes from their results does not.

Under autocast a product has another dtype than its factors, so that an operation on both (a scatter, an in-place sum)
fails or rounds; methods are written for the dtypes that they are given.
"""

from __future__ import annotations

import torch


class Ambient:
    """The autocast that was on when this was made.

    Args:
        device: whose autocast.
    """

    def __init__(self, device: torch.device) -> None:
        self._type = device.type
        self._enabled = torch.is_autocast_enabled(self._type)
        self._dtype = torch.get_autocast_dtype(self._type)

    def __call__(self) -> torch.autocast:
        """A context with that autocast again."""
        return torch.autocast(self._type, dtype=self._dtype, enabled=self._enabled)

    def off(self) -> torch.autocast:
        """A context without autocast."""
        return torch.autocast(self._type, dtype=self._dtype, enabled=False)
