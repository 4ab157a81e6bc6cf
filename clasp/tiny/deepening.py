"""Deepens a trained decoder: each layer is followed by new ones that at first add nothing.

Training a decoder of 8 layers costs a quarter of one of 32; deepened so, the deep one computes what the shallow one did
to the last bit and is trained on from there. The trained layers end up spread over the depth, as what they do is in
large models. (The idea of growing a network without changing its function: Net2Net, arXiv 1511.05641, section 2.2;
stacking in place of it loses what was learnt until it is learnt again.)
"""

from __future__ import annotations

import torch
from transformers import LlavaForConditionalGeneration


@torch.no_grad()
def deepen(shallow: LlavaForConditionalGeneration, deep: LlavaForConditionalGeneration) -> None:
    """Gives ``deep`` the weights of ``shallow``, whose decoder has a whole fraction of its layers.

    A new layer starts as a copy of the trained one before it, with zeros in the two matrices that write to the residual
    stream.

    Raises:
        ValueError: the deep decoder's layers are no multiple of the shallow one's.
    """
    few, many = shallow.model.language_model.layers, deep.model.language_model.layers
    if len(many) % len(few):
        raise ValueError(f"A decoder of {len(few)} layers cannot be deepened evenly to {len(many)}: give a multiple.")
    factor = len(many) // len(few)
    rest = {name: value for name, value in shallow.state_dict().items() if ".language_model.layers." not in name}
    deep.load_state_dict(rest, strict=False)
    for number, layer in enumerate(many):
        layer.load_state_dict(few[number // factor].state_dict())
        if number % factor:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
