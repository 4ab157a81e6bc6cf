"""The demo without its page: opening images safely, maps, answers, and refused requests."""

from __future__ import annotations

import contextlib
import io
import random
import re
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Prompt
from PIL import Image
from torch import nn

import clasp
from clasp import FastV
from clasp.categories import CATEGORIES
from clasp.demo import asking, drawing
from clasp.demo.asking import DemoRequest, Models
from clasp.demo.drawing import COMPLETION, KEPT, PIVOT, DemoError, kept_map, opened, preprocessed
from clasp.demo.server import Example
from clasp.methods import get

pytestmark = pytest.mark.xdist_group("demo")  # one model for all


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    size = width * height * len(mode)
    return Image.frombytes(mode, (width, height), random.Random(width * height).randbytes(size))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=kind, **options)
    return out.getvalue()


def test_images_are_upright_and_transparent_parts_white() -> None:
    picture = noise(20, 10)
    assert opened(encoded(picture)).tobytes() == picture.tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown rotated by 270 degrees
    turned = opened(encoded(picture, exif=exif))
    assert turned.tobytes() == picture.transpose(Image.Transpose.ROTATE_270).tobytes()
    assert opened(encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0)))).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", drawing.FORMATS)
def test_damaged_files_of_every_format_are_refused_or_read(kind: str) -> None:
    whole = encoded(noise(64, 48), kind)
    assert opened(whole).size == (64, 48)
    with pytest.raises(DemoError, match=r"damaged|no image"):
        opened(whole[: len(whole) // 2])
    rng = random.Random(kind)
    for _ in range(60):  # decoders may fail in any way, but only a DemoError may be raised
        data = bytearray(whole[: rng.randrange(1, len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(DemoError):
            assert opened(bytes(data)).mode == "RGB"


def test_large_images_are_refused_by_their_head() -> None:
    """The file has a header but no pixels, so reading further would report it as damaged."""
    cases = (drawing.MAX_PIXELS // 1000 + 1, 1000, "million"), (2100, 100, "strip"), (10**5, 10**5, "no image")
    for width, height, said in cases:
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n"
        for kind, body in chunks:
            data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        with pytest.raises(DemoError, match=said):
            opened(data)
    with pytest.raises(DemoError, match="10 MiB"):
        opened(bytes(drawing.MAX_BYTES + 1))
    with pytest.raises(DemoError, match="no image that can be read; use PNG"):
        opened(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize("kinds", [True, False])
def test_maps_show_kept_tokens_unchanged_and_framed(kinds: bool) -> None:
    rows, columns = 3, 5
    shown = noise(columns * 16, rows * 16)
    kept = {0, 4, 7, 14}
    grid = torch.arange(rows * columns).view(rows, columns)
    drawn = kept_map([(shown, grid)], kept, {4, 14} if kinds else None)
    assert drawn.size == shown.size
    for index in range(rows * columns):
        left, top = index % columns * 16, index // columns * 16
        inside = (left + 4, top + 4, left + 12, top + 12)
        assert (drawn.crop(inside).tobytes() == shown.crop(inside).tobytes()) == (index in kept)
        colour = (KEPT if not kinds else PIVOT if index in (4, 14) else COMPLETION) if index in kept else None
        corners = [drawn.getpixel((left + x, top + y)) for x in (0, 15) for y in (0, 15)]
        assert (corners == [colour] * 4) == (index in kept)
    assert kept_map([(shown, grid)], {rows * columns}, None).tobytes() == kept_map([(shown, grid)], (), None).tobytes()


def test_frames_lie_beside_each_other_with_their_own_tokens() -> None:
    whole = (noise(32, 32), torch.arange(4).view(2, 2))
    tiles = (noise(64, 48), torch.arange(4, 16).view(3, 4))
    drawn = kept_map([whole, tiles], {3, 4}, None)
    assert drawn.size == (64 + 16 + 64, 48)
    for (shown, _), left, place in ((whole, 0, (16, 16)), (tiles, 80, (0, 0))):
        for x in range(0, shown.width, 16):
            for y in range(0, shown.height, 16):
                inside = (x + 4, y + 4, x + 12, y + 12)
                there = drawn.crop((inside[0] + left, inside[1], inside[2] + left, inside[3]))
                assert (there.tobytes() == shown.crop(inside).tobytes()) == ((x, y) == place)


def test_the_style_sheet_has_the_colours_of_the_maps() -> None:
    css = (Path(clasp.__file__).parent / "demo" / "page.css").read_text()
    for name, colour in (("pivot", PIVOT), ("completion", COMPLETION), ("kept", KEPT)):
        assert f"--{name}: rgb({' '.join(map(str, colour))})" in css


NEWLINES = ("llava_next", "llava_onevision")
"""Families with tokens of the whole image, then of the tiles row by row, with a newline token after each row."""
WHOLE = {"internvl": -1, "smolvlm": -1}
"""Index of the frame that shows the whole image, if not the first."""


@pytest.mark.parametrize("name", FAMILIES)
def test_frames_have_every_visual_token_where_its_pixels_are(name: str) -> None:
    """The image is white only at its top right, and so must be each frame that shows the whole image."""
    family = FAMILIES[name]
    picture = Image.new("RGB", (112, 56))
    picture.paste("white", (56, 0, 112, 28))
    inputs = family.inputs([Prompt(text="What?", images=[picture])])
    with get("random")(ratio=0.5)(family.model(), family.processor()) as run, torch.no_grad():
        family.model()(**inputs)
        (grids,) = run.grids()
    frames = preprocessed(picture, inputs, family.processor(), grids)
    placeholder = family.processor().tokenizer.convert_tokens_to_ids(family.processor().image_token)
    visual = int((inputs["input_ids"] == placeholder).sum())
    placed = torch.cat([grid.flatten() for _, grid in frames]).tolist()
    assert len(set(placed)) == len(placed)
    assert visual - len(placed) == (frames[-1][1].shape[0] if name in NEWLINES else 0)
    whole, (rows, columns) = frames[WHOLE.get(name, 0)][0], frames[-1][1].shape
    assert all(shown.size == (grid.shape[1] * 16, grid.shape[0] * 16) for shown, grid in frames)
    if name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        assert columns == 2 * rows
    for shown in [whole, *([frames[-1][0]] if name in NEWLINES else [])]:
        corners = [shown.getpixel((x, y)) for y in (1, shown.height - 2) for x in (1, shown.width - 2)]
        assert corners == [(0, 0, 0), (255, 255, 255), (0, 0, 0), (0, 0, 0)]
    if WHOLE.get(name):
        mean = [sum(shown.convert("L").tobytes()) / shown.width / shown.height for shown, _ in frames[:-1]]
        assert max(mean) > 100, "a tile at the top right is mostly white"
        assert min(mean) < 1, "and others are black"


def test_examples_are_answered_better_than_without_an_image(models: Models, shown: list[Example]) -> None:
    """A gray image gets a third of the benchmarks' questions right (docs/tiny-backbone.md)."""
    requests = [DemoRequest(one.image, one.question, ("random",), 64) for one in shown]
    found = [models.answer(asked)[0]["answer"] == one.answer for asked, one in zip(requests, shown, strict=True)]
    assert sum(found) > len(shown) / 3


def test_answers_and_costs_are_those_of_the_methods_alone(models: Models, shown: list[Example]) -> None:
    example = shown[1]
    found = models.answer(DemoRequest(example.image, example.question, ("fastv", "clasp"), 64))
    plain, fastv, own = found
    assert [one["method"] for one in found] == ["Unpruned", "FastV", "CLASP"]
    model, processor = models.get("tiny")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.question}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(text=text, images=Image.open(io.BytesIO(example.image)), return_tensors="pt")

    def generated() -> str:
        output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    assert plain["answer"] == generated()
    with FastV(tokens=64)(model, processor) as run:
        assert fastv["answer"] == generated()
    assert run.trace is not None
    (sample,) = run.trace.samples
    costs = dict(fastv["costs"])
    assert costs["Visual tokens, output average"] == f"{sum(sample.visual_leaving) / len(sample.visual_leaving):.1f}"
    assert costs["Visual tokens, final"] == str(len(sample.kept[0]))
    assert costs["KV cache after prefill"] == f"{run.trace.kv_bytes / 2**20:.3f} MiB"
    (stage,) = fastv["stages"]
    assert stage["text"] == f"From decoder layer 2 on {len(sample.kept[0])} of 576 visual tokens"
    assert dict(plain["costs"])["Visual tokens, final"] == "576"
    assert (plain["stages"], plain["category"], plain["confidence"]) == ([], None, None)
    assert own["category"] in CATEGORIES
    assert len(own["stages"]) == 3
    assert 0.5 < own["confidence"] <= 1.0
    for one in found:
        spent = {name: float(value.split()[0].replace(",", "")) for name, value in one["costs"] if " ms" in value}
        assert spent["ViT"] + spent["Prefill"] < spent["In all"]
        assert 0.0 <= spent["Selection, within these two"] < spent["ViT"] + spent["Prefill"]
        assert (spent["Selection, within these two"] > 0.0) == (one is not plain)


def test_a_refusing_method_does_not_affect_the_others(models: Models, shown: list[Example]) -> None:
    plain, fastv, divprune = models.answer(DemoRequest(shown[0].image, shown[0].question, ("fastv", "divprune"), 5))
    assert plain["answer"]
    assert divprune["answer"]
    assert "a budget of 5 visual tokens (output average) cannot be reached" in fastv["refused"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"question": " \n"}, "There is no question"),
        ({"question": "x" * 1001}, "1001 characters"),
        ({"methods": ()}, "0 methods"),
        ({"methods": ("fastv",) * 2}, "each once"),
        ({"methods": ("fastv", "tome", "dart", "clasp", "hired")}, "5 methods"),
        ({"methods": ("none",)}, "no method 'none'; use pool, random, "),
        ({"tokens": 0}, "budget is 0"),
    ],
)
def test_invalid_requests_are_refused_before_a_model_loads(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DemoError, match=re.escape(said)):
        DemoRequest(**{"image": b"", "question": "What?", "methods": ("fastv",), "tokens": 64, **changed})


def test_a_damaged_image_and_a_placeholder_in_the_question_are_refused(models: Models, shown: list[Example]) -> None:
    with pytest.raises(DemoError, match="no image"):
        Models().answer(DemoRequest(b"x", "What?", ("fastv",), 64, backbone="none, as the image is opened first"))
    with pytest.raises(DemoError, match="'<image>'"):
        models.answer(DemoRequest(shown[0].image, "What is <image>?", ("fastv",), 64))


def test_one_model_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[nn.Module]] = []

    def load(name: str) -> tuple[nn.Module, str]:
        assert [one() for one in alive] == [None] * len(alive)
        model = nn.Linear(1, 1)
        model.itself = [model]  # a reference cycle, as in real models
        alive.append(weakref.ref(model))
        return model, name

    monkeypatch.setattr(asking, "load", load)
    held = Models()
    assert [held.get(name)[1] for name in ("a", "a", "b", "a")] == ["a", "a", "b", "a"]
    assert len(alive) == 3
    assert torch.is_tensor(held.get("a")[0].weight)


def test_nothing_imports_the_demo_which_imports_neither_evaluation_nor_report() -> None:
    package = Path(clasp.__file__).parent
    inside = {path: "clasp/demo" in path.as_posix() for path in package.rglob("*.py")}
    assert sum(inside.values()) == 4
    for path, demo in inside.items():
        if path == package / "cli" / "demo.py":  # its command
            continue
        forbidden = r"clasp\.(evaluation|report|bench)" if demo else r"clasp\.demo"
        assert not re.search(rf"(from|import) {forbidden}", path.read_text(encoding="utf-8")), path
