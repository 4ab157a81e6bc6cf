"""What surrounds a forward: threads, caches, copies, wrappers, precision. Right, or refused by name."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cases import GREEDY, LLAVA, METHODS, PROMPTS, Int8, placeholders
from families import Prompt, picture
from probe import ONE, probed
from torch import Tensor, nn
from transformers import DynamicCache, LlavaForConditionalGeneration
from transformers.cache_utils import Cache

from clasp.backbones.base import UnsupportedError
from clasp.engine.cache import cache_bytes, held_lengths
from clasp.methods import get


@pytest.fixture(scope="module")
def model() -> Any:
    """A copy, which tests of this file may change."""
    return copy.deepcopy(LLAVA.model())


def pruning(name: str, model: Any) -> Any:
    return METHODS[name](model, LLAVA.processor())


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads are switched as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("name", ["visionzip", "clasp", "pdrop"])
def test_threads_in_one_context_each_get_their_own_answer(name: str, model: Any, switching: None) -> None:
    prompts = [Prompt(text=PROMPTS[i % 3], images=[picture(48, 48, i)]) for i in range(4)]
    inputs = [LLAVA.inputs([prompt]) for prompt in prompts]

    def answer(number: int) -> Tensor:
        with torch.no_grad():
            return torch.cat(model.generate(**inputs[number], max_new_tokens=2, **GREEDY).logits)

    with pruning(name, model), ThreadPoolExecutor(4) as pool:
        alone = [answer(number) for number in range(4)]
        for number, together in enumerate(pool.map(answer, [0, 1, 2, 3] * 3)):
            assert torch.equal(together, alone[number % 4])
    assert len({tuple(one.flatten().tolist()) for one in alone}) == 4


def test_a_failed_forward_lets_the_next_thread_in(model: Any) -> None:
    inputs = LLAVA.inputs([ONE])
    with pruning("fastv", model) as run, torch.no_grad(), ThreadPoolExecutor(1) as pool:
        with pytest.raises(UnsupportedError, match="no pixel_values"):
            model(input_ids=inputs["input_ids"])
        pool.submit(torch.no_grad()(lambda: model(**inputs))).result(timeout=60)
        assert run.trace is not None


# --- caches ----------------------------------------------------------------------------------------------------------


def prefilled(model: Any, name: str = "visionzip", cache: Any = None) -> tuple[Any, Any, Tensor]:
    """A context, left again, the cache of a prefill in it, and a token that follows."""
    with pruning(name, model) as run, torch.no_grad():
        output = model(**LLAVA.inputs([ONE]), past_key_values=cache, use_cache=True)
    return run, output.past_key_values, output.logits[:, -1:].argmax(dim=-1)


def test_a_pruned_cache_goes_on_only_where_it_was_pruned(model: Any) -> None:
    run, cache, token = prefilled(model)
    spare, lengths = copy.deepcopy(cache), held_lengths(cache)
    with torch.no_grad():
        with run:
            expected = model(input_ids=token, past_key_values=cache).logits
        with pytest.raises(UnsupportedError, match=r"pruned by method 'visionzip'.*prefill the whole conversation"):
            model(input_ids=token, past_key_values=spare)
        with pruning("fastv", model), pytest.raises(UnsupportedError, match="by method 'visionzip'"):
            model(input_ids=token, past_key_values=spare)
        assert held_lengths(spare) == lengths, "nothing was added"
        with run:
            assert torch.equal(model(input_ids=token, past_key_values=spare).logits, expected), "a copy goes on too"


def test_a_cache_that_was_not_pruned_goes_on_anywhere(model: Any) -> None:
    inputs = LLAVA.inputs([ONE])
    with torch.no_grad():
        with get("fastv")(tokens=64)(model, LLAVA.processor()):
            cache = model(**inputs, use_cache=True).past_key_values
        spare = model(**inputs, use_cache=True).past_key_values
        token, sent = inputs["input_ids"][:, -1:], pickle.loads(pickle.dumps(cache))
        plain, *ours = (model(input_ids=token, past_key_values=one).logits for one in (spare, cache, sent))
    assert all(torch.equal(one, plain) for one in ours)


def test_an_emptied_cache_is_like_new(model: Any) -> None:
    _, cache, token = prefilled(model)
    assert isinstance(cache, DynamicCache)
    assert type(cache).__name__ == "DynamicCache"
    cache.crop(-10_000)
    with torch.no_grad():
        assert torch.equal(model(input_ids=token, past_key_values=cache).logits, model(input_ids=token).logits)


def test_bytes_of_a_quantised_cache_are_counted(model: Any) -> None:
    run, cache, _ = prefilled(model, "fastv", Cache(layers=[Int8() for _ in model.model.language_model.layers]))
    heads, dim = model.config.text_config.num_key_value_heads, model.config.text_config.head_dim
    tokens = sum(held_lengths(cache))
    assert run.trace.kv_bytes == 2 * (tokens * heads * dim + 4 * len(cache.layers))
    _, plain, _ = prefilled(model, "fastv")
    assert cache_bytes(plain) == 2 * 4 * tokens * heads * dim


def test_the_trace_is_of_the_latest_prefill(model: Any) -> None:
    text = LLAVA.inputs([Prompt(text=PROMPTS[0])])
    with pruning("fastv", model) as run, torch.no_grad():
        model.generate(**LLAVA.inputs([ONE]), max_new_tokens=2)
        assert run.trace is not None
        model.generate(**text, max_new_tokens=2)
        assert run.trace is None


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_copy_made_inside_the_context_is_a_plain_model(model: Any) -> None:
    inputs = LLAVA.inputs([ONE])
    with torch.no_grad():
        plain = model(**inputs).logits
        for name in ("fastv", "tome"):
            with pruning(name, model) as run:
                twin = copy.deepcopy(model)
                assert torch.equal(twin(**inputs).logits, plain)
                assert run.trace is None
                pruned = model(**inputs).logits
                with pruning(name, twin):
                    assert torch.equal(twin(**inputs).logits, pruned)
            assert torch.equal(twin(**inputs).logits, plain)
            assert not torch.equal(pruned, plain)
        twin.model.vision_tower.embeddings.patch_embedding.weight.zero_()
        assert not torch.equal(twin(**inputs).logits, plain), "its encoder is its own"
        assert torch.equal(model(**inputs).logits, plain)


class Mine(LlavaForConditionalGeneration):
    """A user's subclass."""


def test_wrapped_and_subclassed_models_are_pruned(model: Any) -> None:
    peft = pytest.importorskip("peft")
    inputs, method = LLAVA.inputs([ONE]), METHODS["fastv"]

    def kept(outer: Any) -> list[int]:
        with method(outer, LLAVA.processor()) as run, torch.no_grad():
            outer(**inputs)
        return run.trace.samples[0].kept[0].tolist()

    expected = kept(model)
    mine = Mine(copy.deepcopy(model.config)).eval()
    mine.load_state_dict(model.state_dict())
    config = peft.LoraConfig(target_modules=["q_proj"], r=2)
    lora = peft.get_peft_model(copy.deepcopy(model), config).eval()
    assert kept(nn.DataParallel(model)) == kept(mine) == kept(lora) == kept(nn.DataParallel(lora)) == expected
    with method(lora, LLAVA.processor()), pytest.raises(UnsupportedError, match="already being pruned"):
        method(lora.get_base_model(), LLAVA.processor()).__enter__()
    several = nn.DataParallel(model)
    several.device_ids = [0, 1]
    with pytest.raises(UnsupportedError, match=r"DataParallel over 2 devices.*device_map"):
        method(several, LLAVA.processor())
    with pytest.raises(UnsupportedError, match=r"no adapter for Sequential.*pass the model inside it"):
        method(nn.Sequential(model), LLAVA.processor())


# --- mixed precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tome", "mustdrop"])
def test_merging_works_under_autocast(name: str, model: Any) -> None:
    with pruning(name, model) as run, torch.no_grad():
        model(**LLAVA.inputs([ONE]))
        plain = run.trace.samples[0].visual_leaving
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**LLAVA.inputs([ONE]))
    assert all(len(kept) for kept in run.trace.samples[0].kept)
    assert name == "mustdrop" or run.trace.samples[0].visual_leaving == plain  # MustDrop's depend on the values


def test_under_autocast_the_model_computes_mixed_and_the_method_does_not() -> None:
    model = LLAVA.model("eager")

    def look(state: Any) -> Any:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        return product.dtype, state.decoder().heads("v").dtype, state.attention("last")

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        maps = model(**LLAVA.inputs([ONE]), output_attentions=True).attentions[1]
        (product, value, attention), *_ = probed("llava", [ONE], look)
    assert (product, value) == (torch.float32, torch.bfloat16)
    visual = placeholders(model, LLAVA.inputs([ONE])["input_ids"][0]).nonzero().squeeze(1)
    assert torch.allclose(attention[0], maps[0, :, -1, visual].float().mean(dim=0), atol=2e-3)
