"""What one decoder layer computes with, for the rows of a stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clasp.backbones.base import UnsupportedError
from clasp.engine.layout import Layout
from clasp.methods.protocols import Projection, Queries
from clasp.ops.attention import attention_probabilities, attention_rows
from clasp.ops.select import take
from clasp.ops.similarity import blocks

if TYPE_CHECKING:
    from clasp.engine.state import StageState

Attend = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]
HELD = 1 << 26
"""Most attention probabilities in memory at a time, while a mean over query rows is computed."""


class LayerRows:
    """The engine's :class:`~clasp.methods.protocols.Decoder`.

    Args:
        hidden: (batch, length, hidden) input of the layer.
        layout: of that input, the state's own or an earlier and longer one.
    """

    def __init__(self, state: StageState, layer: int, hidden: Tensor, layout: Layout) -> None:
        self.layer = layer
        self._state, self._layout = state, layout
        self._adapter = state.prefill.adapter
        self._hidden = state.own(hidden)
        self._cos, self._sin = (state.own(part) for part in layout.rotary)

    def real(self, of: Queries) -> Tensor:
        return self._state.locate(of)[1]

    def hidden(self, of: Queries = "visual") -> Tensor:
        return take(self._hidden, self._places(of))

    def heads(self, kind: Projection, of: Queries = "visual", *, rotated: bool = True) -> Tensor:
        return self._heads(kind, self._places(of), rotated and kind != "v")

    def rotary(self) -> tuple[Tensor, Tensor]:
        places = self._places("visual")
        return take(self._cos, places), take(self._sin, places)

    def scaling(self) -> float:
        return self._adapter.scaling(self.layer)

    def attention(self, queries: Queries | Tensor) -> Tensor:
        return self._mean(attention_rows, "brw,br->bw", queries)

    def attention_heads(self, queries: Queries | Tensor) -> Tensor:
        return self._mean(attention_probabilities, "bhrw,br->bhw", queries)

    def _mean(self, attend: Attend, summing: str, queries: Queries | Tensor) -> Tensor:
        """Mean over the query tokens, computed for at most :data:`HELD` probabilities at a time."""
        rows, asked = self._query_rows(queries)
        width = len(rows) * self._adapter.geometry.heads * (self._earlier + self._layout.length)
        total: Any = 0.0
        for part in blocks(rows.shape[1], width, HELD):
            total += torch.einsum(summing, self._probabilities(attend, rows[:, part]), asked[:, part].float())
        count = asked.sum(dim=1).clamp(min=1)
        return total / count.view(-1, *[1] * (total.ndim - 1))

    def attention_rows(self, queries: Queries) -> Tensor:
        rows, asked = self._query_rows(queries)
        return self._probabilities(attention_rows, rows).masked_fill(~asked[..., None], 0.0)

    def _probabilities(self, attend: Attend, rows: Tensor) -> Tensor:
        """(rows, ..., queries, visual) float32 attention of the query rows, places in the layout, by ``attend``."""
        order = torch.arange(-self._earlier, self._layout.length, device=rows.device)
        allowed = order <= rows[..., None]
        if (attention_mask := self._layout.attention_mask()) is not None:
            allowed = allowed & self._state.own(attention_mask)[:, None, :]
        bias = None if (weighed := self._layout.weighed()) is None else self._state.own(weighed)
        scores = attend(self._heads("q", rows, True), self._all_keys, allowed, self.scaling(), bias)
        visual = self._places("visual") + self._earlier
        visual = visual.view(len(visual), *[1] * (scores.ndim - 2), -1)
        return scores.gather(-1, visual.expand(*scores.shape[:-1], -1))

    @property
    def _earlier(self) -> int:
        """Tokens of earlier turns that the layer's cache holds."""
        return 0 if self._layout.past is None else self._layout.past.length

    @cached_property
    def _all_keys(self) -> Tensor:
        """(rows, kv_heads, earlier + length, head_dim) also those of the tokens of earlier turns.

        Raises:
            UnsupportedError: the cache does not keep them as they were.
        """
        if not self._earlier:
            return self._keys
        layer = self._state.prefill.cache.layers[self.layer]
        if layer.keys.shape[-2:-1] != (layer.get_seq_length(),):  # a quantised layer holds its latest ones alone
            raise UnsupportedError(
                f"method {self._state.prefill.method.name!r} looks at attention, to which the tokens of earlier turns "
                f"belong, and {type(layer).__name__} keeps no keys to look at; use a plain dynamic cache, or prefill "
                f"the whole conversation anew"
            )
        earlier = self._state.own(layer.keys[:, :, : self._earlier]).to(self._keys)
        return torch.cat([earlier, self._keys], dim=2)

    @cached_property
    def _keys(self) -> Tensor:
        """(rows, kv_heads, length, head_dim) rotated keys of all places, those of dropped tokens included."""
        with self._state.ambient():
            return self._adapter.heads(self.layer, "k", self._hidden, (self._cos, self._sin))

    def key_norms(self, of: Queries) -> Tensor:
        """(rows, tokens) float32 L1 norms of rotated keys, heads concatenated."""
        return self._norms.gather(1, self._places(of))

    @cached_property
    def _norms(self) -> Tensor:
        return self._keys.float().abs().sum(dim=(1, 3))

    def _heads(self, kind: Projection, places: Tensor, rotated: bool) -> Tensor:
        rotary = (take(self._cos, places), take(self._sin, places)) if rotated else None
        with self._state.ambient():
            return self._adapter.heads(self.layer, kind, take(self._hidden, places), rotary)

    def _query_rows(self, queries: Queries | Tensor) -> tuple[Tensor, Tensor]:
        """(rows, tokens) places of the query tokens in the layout, and which of them are not padding."""
        if isinstance(queries, Tensor):
            return self._places("visual"), queries
        return self._places(queries), self.real(queries)

    def _places(self, of: Queries) -> Tensor:
        """(rows, tokens) where these tokens of the state were in this layer's layout."""
        state = self._state
        places = state.locate(of)[0]
        if self._layout is state.layout:
            return places
        return self._former.gather(1, state.own(state.layout.index).gather(1, places))

    @cached_property
    def _former(self) -> Tensor:
        """(rows, original length) long: the place in this layer's layout of each token of the original sequence."""
        layout, length = self._layout, self._state.prefill.ids.shape[1]
        places = torch.arange(layout.length, device=layout.index.device).expand_as(layout.index)
        # one column more, for what is padding
        former = places.new_zeros(len(places), length + 1)
        former.scatter_(1, layout.index.masked_fill(~layout.valid, length), places)
        return self._state.own(former)
