"""Common uses of a model with several methods: the answer equals the pruned model's own, computed another way.

One use alone: ``pytest tests/engine/test_uses.py -k NAME``. Turns of a conversation are in ``test_turns.py``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from cases import GREEDY, METHODS, PROMPTS
from families import FAMILIES, Prompt, fits, picture
from torch import Tensor, nn
from transformers import QuantizedCache
from transformers.generation.streamers import BaseStreamer

from clasp.backbones import adapter_for
from clasp.backbones.base import UnsupportedError
from clasp.engine.cache import held_lengths

NEW = 3
CLOSE = 1e-4
FEW_FAMILIES = ("llava", "qwen2_5_vl")
FEW_METHODS = ("visionzip", "fastv-late", "clasp")
"""Before the decoder with other features, at one layer, at several behind fused features."""
ASKED = [
    Prompt(text=PROMPTS[0], images=[picture(48, 48, 0)]),
    Prompt(text=PROMPTS[1], images=[picture(75, 37, 1), picture(44, 60, 2)]),
]


@dataclass(frozen=True)
class Subject:
    """A method on a family: the answer to a batch of two prompts, one with a picture, one with two."""

    family: str
    name: str
    attention: str = "sdpa"

    @property
    def model(self) -> Any:
        return FAMILIES[self.family].model(self.attention)

    @property
    def processor(self) -> Any:
        return FAMILIES[self.family].processor()

    @cached_property
    def inputs(self) -> Any:
        return FAMILIES[self.family].inputs(ASKED)

    def copied(self) -> Any:
        return copy.deepcopy(self.model)

    def pruning(self, model: Any) -> Any:
        return METHODS[self.name](model, self.processor)

    def logits(self, model: Any) -> Tensor:
        """(steps, rows, words) of a greedy answer."""
        return torch.stack(self.answer(model).logits)

    def answer(self, model: Any, inputs: Any = None, **options: Any) -> Any:
        settings = {"max_new_tokens": NEW, **GREEDY, **options}
        with self.pruning(model), torch.no_grad():
            return model.generate(**(inputs or self.inputs), **settings)

    @cached_property
    def expected(self) -> Tensor:
        return self.logits(self.model)


subject = lru_cache(Subject)


def together(family: str) -> pytest.MarkDecorator:
    """One process runs all tests of a family, so that its models are built once."""
    return pytest.mark.xdist_group(f"uses {family}")


@pytest.fixture(
    params=[
        pytest.param((family, name), id=f"{family}-{name}", marks=together(family))
        for family in FEW_FAMILIES
        for name in (FEW_METHODS if family == "llava" else ("clasp",))
    ]
)
def on(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


# --- generation ------------------------------------------------------------------------------------------------------


def test_sampling_several_sequences(on: Subject) -> None:
    """Several sequences for each prompt equal one sequence for each of as many copies of the prompt."""
    model, drawn = on.model, []  # the model first: its random weights are drawn too
    times = FAMILIES[on.family].inputs([prompt for prompt in ASKED for _ in range(3)])
    for inputs, count in ((on.inputs, 3), (times, 1)):
        torch.manual_seed(1)
        options = {"do_sample": True, "temperature": 0.7, "num_return_sequences": count}
        drawn.append(on.answer(model, inputs, **options).sequences)
    assert torch.equal(*drawn)
    assert len({tuple(row.tolist()) for row in drawn[0][:3]}) > 1


class Recorder(BaseStreamer):
    """A streamer that records what it receives."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        pass


def test_streaming(on: Subject) -> None:
    recorder, inputs = Recorder(), FAMILIES[on.family].inputs(ASKED[:1])
    on.answer(on.model, inputs, streamer=recorder)
    assert recorder.tokens == on.answer(on.model, inputs).sequences[0].tolist()


def test_a_pipeline(on: Subject) -> None:
    model = on.copied()  # a pipeline changes its model's generation settings
    answers = transformers.pipeline("image-text-to-text", model=model, processor=on.processor)
    text = on.processor.apply_chat_template(ASKED[0].messages(), add_generation_prompt=True, tokenize=False)
    options = {"max_new_tokens": NEW, "return_tensors": True, "generate_kwargs": {"do_sample": False}}
    with on.pruning(model):
        said = answers(images=list(ASKED[0].images), text=text, **options)
    expected = on.answer(on.model, FAMILIES[on.family].inputs(ASKED[:1])).sequences[0]
    assert said[0]["generated_token_ids"][-NEW:].tolist() == expected[-NEW:].tolist()


def test_scores_hidden_states_and_attentions(on: Subject) -> None:
    """Scores, hidden states and attention maps are those of the tokens that each layer holds."""
    eager = subject(on.family, on.name, "eager")
    more = dict.fromkeys(("output_scores", "output_attentions", "output_hidden_states"), True)
    with eager.pruning(eager.model) as run, torch.no_grad():
        output = eager.model.generate(**eager.inputs, max_new_tokens=NEW, **GREEDY, **more)
    assert torch.equal(torch.stack(output.logits), eager.expected)
    assert torch.equal(torch.stack(output.scores), eager.expected), "nothing that is set changes them"
    assert torch.equal(torch.stack(output.scores).argmax(dim=-1).T, output.sequences[:, -NEW:])
    layers = range(len(adapter_for(eager.model).layers))
    held = [max(s.text_tokens + s.visual_entering[layer] for s in run.trace.samples) for layer in layers]
    for step in range(NEW):
        assert [maps.shape[-1] for maps in output.attentions[step]] == [length + step for length in held]
        for row, sample in enumerate(run.trace.samples):
            for layer in layers:
                last = output.attentions[step][layer][row, :, -1]
                assert torch.allclose(last.sum(dim=-1), torch.ones(len(last)), atol=1e-5)
                real = sample.text_tokens + sample.visual_entering[layer] + step
                assert (last > 0).sum(dim=-1).max() <= real, "nobody looks at padding"
    assert [states.shape[1] for states in output.hidden_states[1]] == [1] * (len(held) + 1)


def test_outputs_as_tuples(on: Subject) -> None:
    model = on.copied()
    model.config.return_dict = False
    with on.pruning(model), torch.no_grad():
        last = model(**on.inputs)[0][:, -1]
    with on.pruning(on.model), torch.no_grad():
        assert torch.equal(last, on.model(**on.inputs).logits[:, -1])
    assert (on.logits(model) - on.expected).abs().max() < CLOSE


def test_padding_on_the_right(on: Subject) -> None:
    """The words' logits are those of left padding; to generate from it is refused, as transformers warns."""
    processor = copy.deepcopy(on.processor)
    processor.tokenizer.padding_side = "right"
    right = FAMILIES[on.family].inputs(ASKED, processor)
    with on.pruning(on.model), torch.no_grad():
        ours, theirs = (on.model(**inputs).logits for inputs in (right, on.inputs))
        for row, words in enumerate(right["attention_mask"].sum(dim=1).tolist()):
            assert right["attention_mask"][row, :words].all()
            assert (ours[row, :words] - theirs[row, -words:]).abs().max() < CLOSE
    if on.family == "llava":
        with pytest.raises(UnsupportedError, match="pad on the left"):
            on.answer(on.model, right)


def test_quantised_cache(on: Subject) -> None:
    """Keys and values of eight bits give nearly the same logits."""
    cache = QuantizedCache("fp8", on.model.config)
    logits = on.answer(on.model, past_key_values=cache).logits
    assert torch.equal(logits[0], on.expected[0])
    assert 0 < (logits[1] - on.expected[1]).abs().max() < 0.3
    plain = on.answer(on.model).past_key_values
    assert held_lengths(cache) == held_lengths(plain)


def test_offloaded_cache(on: Subject) -> None:
    if not torch.cuda.is_available():
        pytest.skip("transformers offloads caches from CUDA devices alone")
    model = on.copied().to("cuda")
    inputs = copy.deepcopy(on.inputs).to("cuda")
    plain, offloaded = (on.answer(model, inputs, cache_implementation=kind) for kind in ("dynamic", "offloaded"))
    assert torch.equal(torch.stack(plain.logits), torch.stack(offloaded.logits))


# --- models ----------------------------------------------------------------------------------------------------------


class Bytes(nn.Module):
    """A linear layer that keeps its weights as bytes, as quantised ones do: no ``weight`` that fits a product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight * self.scale, self.bias)


def test_quantised_weights(on: Subject) -> None:
    """The same as a model whose weights are the rounded ones."""
    quantised, rounded = on.copied(), on.copied()
    for model in (quantised, rounded):
        for part in [*model.model.language_model.layers.modules()]:
            for name, child in part.named_children():
                if isinstance(child, nn.Linear):
                    packed = Bytes(child)
                    if model is quantised:
                        setattr(part, name, packed)
                    else:
                        child.weight.data = packed.weight * packed.scale
    assert (on.logits(quantised) - on.logits(rounded)).abs().max() < 1e-5


def test_weights_on_the_disk(on: Subject, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="device_map is accelerate's; the library needs none of it")
    model = on.copied()
    accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"), offload_buffers=True)
    assert next(model.model.language_model.layers.parameters()).is_meta
    assert torch.equal(on.logits(model), on.expected)


def test_compiled_parts(on: Subject) -> None:
    """Compiled modules inside the model, whose inputs differ in length from layer to layer."""
    model = on.copied()
    for layer in model.model.language_model.layers[1:4]:
        layer.mlp.compile(backend="eager", dynamic=True)
    assert (on.logits(model) - on.expected).abs().max() < CLOSE


def test_lora(on: Subject) -> None:
    """The same as a model into whose weights the adapters are merged; the context takes either model."""
    peft = pytest.importorskip("peft", reason="adapters are peft's; the library needs none of it")
    torch.manual_seed(0)
    config = peft.LoraConfig(target_modules=["q_proj", "k_proj", "v_proj"], r=2, init_lora_weights=False)
    model = peft.get_peft_model(on.copied(), config).eval()
    with on.pruning(model.get_base_model()), torch.no_grad():
        inner = model(**on.inputs).logits[:, -1]
    adapted = on.logits(model)
    merged = on.logits(model.merge_and_unload())
    assert (adapted - merged).abs().max() < CLOSE
    assert (inner - merged[0]).abs().max() < CLOSE
    assert (adapted - on.expected).abs().max() > 1e-3, "the adapters must matter"


def test_training(on: Subject, tmp_path: Path) -> None:
    """transformers' Trainer with gradient checkpointing, against a step of gradient descent by hand without."""
    labels = on.inputs["input_ids"].masked_fill(on.inputs["attention_mask"] == 0, -100)
    batch = {**on.inputs, "labels": labels}
    by_hand, trained = on.copied().train(), on.copied().train()
    with on.pruning(by_hand):
        loss = by_hand(**batch).loss
        loss.backward()
    step = {"max_steps": 1, "learning_rate": 1.0, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True}
    arguments = transformers.TrainingArguments(
        output_dir=tmp_path,
        gradient_checkpointing=True,
        per_device_train_batch_size=1,
        use_cpu=True,
        remove_unused_columns=False,
        **step,
        **quiet,
    )
    trainer = transformers.Trainer(trained, arguments, train_dataset=[0], data_collator=lambda rows: batch)
    with on.pruning(trained) as run:
        trainer.train()
    assert run.trace is not None
    assert abs(trainer.state.log_history[-1]["train_loss"] - loss.item()) < CLOSE
    for part in ("lm_head", "model.language_model.layers.1.mlp.down_proj"):
        before, after = by_hand.get_submodule(part).weight, trained.get_submodule(part).weight
        assert before.grad.abs().max() > 0
        assert (before - before.grad - after).abs().max() < CLOSE


@pytest.mark.parametrize("family", [pytest.param(family, marks=together(family)) for family in FEW_FAMILIES])
def test_every_method_trains(family: str) -> None:
    """A loss and its gradients, also of features that a method changes."""
    model = copy.deepcopy(FAMILIES[family].model()).train()
    inputs = subject(family, FEW_METHODS[0]).inputs
    for name, method in METHODS.items():
        if fits(method, family):
            model.zero_grad()
            with method(model, FAMILIES[family].processor()):
                model(**inputs, labels=inputs["input_ids"]).loss.backward()
            grads = [parameter.grad for parameter in model.model.language_model.parameters()]
            assert all(grad is not None and grad.isfinite().all() for grad in grads), name
