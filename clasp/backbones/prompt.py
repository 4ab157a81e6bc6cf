"""Which tokens of a prompt are the instruction: the user's words, without system prompt, media and chat template."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, pairwise, takewhile
from typing import Any

from jinja2 import TemplateError
from transformers.convert_slow_tokenizer import bytes_to_unicode

from clasp.backbones.base import UnsupportedError

CHAT_TEMPLATES = {
    # "USER: <video>\n{question} ASSISTANT:" of the model card; the released processor has no template
    "VideoLlavaProcessor": (
        "{% for message in messages %}{{ '' if message.role == 'system' else message.role | upper + ': ' }}"
        "{% for part in message.content if part.type == 'image' %}<image>{{ '\\n' }}{% endfor %}"
        "{% for part in message.content if part.type == 'video' %}<video>{{ '\\n' }}{% endfor %}"
        "{% for part in message.content if part.type == 'text' %}{{ part.text + ' ' }}{% endfor %}"
        "{% endfor %}{{ 'ASSISTANT:' if add_generation_prompt }}"
    )
}
"""Class of a processor -> the template of its model card, for checkpoints that were released without one."""

_MARK, _SYSTEM = "\x07instruction\x07", "\x07system\x07"
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
_UNKNOWN_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece vocabularies name single bytes
_BETWEEN = re.compile(
    rb"<\d+(\.\d+)? seconds>"  # Qwen3-VL's processor, before each frame
    rb"|\n?Frame\d+: "  # InternVL's, likewise
    rb"|((<row_\d+_col_\d+>)+\n)+\n"  # SmolVLM's, before the tiles of each row of an image
    rb"|You are provided the following series of [\w -]+ frames from a [\d:]+ \[H:MM:SS\] video\.\n"
    rb"|\nFrame from \d+:\d\d:"  # SmolVLM's, before a video and before each of its frames
)
"""What processors write between the parts of an image or video."""


def with_template(processor: Any) -> Any:
    """The processor, with its family's published chat template where it was released without any."""
    if getattr(processor, "chat_template", None) is None and type(processor).__name__ in CHAT_TEMPLATES:
        processor.chat_template = CHAT_TEMPLATES[type(processor).__name__]
    return processor


class PromptReader:
    """Reads instructions out of token ids.

    The instruction stands between what the chat template puts before a user's words (the *header*) and after them (the
    *closing*); both are learned from the template itself. A header of special tokens marks the last turn; one of plain
    words could also be the user's, so the one before the media is taken, and a dialogue of several turns counts as one.

    Args:
        processor: a transformers processor with a tokenizer; without a chat template, everything is instruction.
        placeholders: id or ids of the tokens that stand for visual tokens.
    """

    def __init__(self, processor: Any, placeholders: int | Collection[int]) -> None:
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._placeholders = {placeholders} if isinstance(placeholders, int) else set(placeholders)
        names = (getattr(processor, f"{medium}_token", None) for medium in ("image", "video"))
        self._media = self._placeholders | {self._tokenizer.convert_tokens_to_ids(name) for name in names if name}
        added = self._tokenizer.added_tokens_decoder
        self._verbatim = {token: str(entry.content).encode() for token, entry in added.items()}
        marked = {token for token, entry in added.items() if entry.special}
        unknown = {self._tokenizer.unk_token_id}
        self._special = {*self._tokenizer.all_special_ids, *marked} - unknown | self._placeholders
        self._byte_level = "Ġ" in "".join(self._tokenizer.tokenize("a a"))
        self.header, self.closing = (part.strip().encode() for part in _frame(processor))
        self._marks_turns = any(self._verbatim.get(token, b"\0") in self.header for token in self._special)

    def text(self, ids: Sequence[int]) -> str:
        """The instruction text of a prompt; empty when there is none.

        Args:
            ids: the prompt's token ids without padding.
        """
        media = self._after_media(ids)
        words = self._words(ids, typed=True)
        before = b"".join(part for place, part in words if place < media)
        after = b"".join(part for place, part in words if place >= media)
        return (_BETWEEN.sub(b"", before) + after).decode(errors="replace").strip()

    def positions(self, ids: Sequence[int]) -> list[int]:
        """Indices of the instruction's tokens that can see the image; the last token where no other can.

        Args:
            ids: the prompt's token ids without padding.
        """
        media = self._after_media(ids)
        words = [(place, part.strip()) for place, part in self._words(ids) if place >= media]
        full = [i for i, (_, part) in enumerate(words) if part]
        return [place for place, _ in words[full[0] : full[-1] + 1]] if full else [len(ids) - 1]

    def _words(self, ids: Sequence[int], typed: bool = False) -> list[tuple[int, bytes]]:
        """Index of each ordinary token between header and closing, and the bytes of it that lie there.

        Args:
            typed: whether special tokens that a user's own words contain count as ordinary.
        """
        pieces = [self._piece(int(token)) for token in ids]
        ends = list(accumulate(map(len, pieces)))
        start, end = self._span(b"".join(pieces), ends, ids)
        words = []
        for place, (token, piece, stop) in enumerate(zip(ids, pieces, ends, strict=True)):
            begin = stop - len(piece)
            part = piece[max(start - begin, 0) : max(end - begin, 0)]
            if part and (token not in self._special or (typed and self._typed(ids, place))):
                words.append((place, part))
        return words

    def _typed(self, ids: Sequence[int], place: int) -> bool:
        """Whether a special token was typed by the user.

        It was not if it is the prompt's first token, stands before or after a placeholder, or stands before the last
        placeholder and elsewhere marks one (as around a video each of whose frames is marked, too).
        """
        around = ids[max(place - 1, 0) : place + 2]
        if place == 0 or self._media.intersection(map(int, around)):
            return False
        return place > self._after_media(ids) + 1 or ids[place] not in self._media_marks(ids)

    def _media_marks(self, ids: Sequence[int]) -> set[int]:
        """Special tokens that stand before or after a placeholder."""
        pairs = [pair for pair in pairwise(map(int, ids)) if self._media.intersection(pair)]
        return {token for pair in pairs for token in pair} & self._special

    def _span(self, prompt: bytes, ends: Sequence[int], ids: Sequence[int]) -> tuple[int, int]:
        """The bytes of the prompt between header and closing; ``ends``: where each token ends."""
        media = next((place for place, token in enumerate(ids) if token in self._placeholders), None)
        if self._marks_turns:
            at = prompt.rfind(self.header)
        elif media is not None:
            at = prompt.rfind(self.header, 0, ends[media])
        else:
            at = prompt.find(self.header)
        start = at + len(self.header) if at >= 0 else 0
        end = prompt.rfind(self.closing, start)
        return start, end if end >= 0 else len(prompt)

    def _after_media(self, ids: Sequence[int]) -> int:
        """Index after the last placeholder."""
        return max((place for place, token in enumerate(ids) if token in self._placeholders), default=-1) + 1

    def _piece(self, token: int) -> bytes:
        """The token's own bytes, from the raw vocabulary: decoding one token alone drops its leading space."""
        if token in self._verbatim:
            return self._verbatim[token]
        raw = self._tokenizer.convert_ids_to_tokens(token) or ""  # a model may generate ids beyond the vocabulary
        if self._byte_level:
            return bytes(_BYTES[letter] for letter in raw)
        byte = _UNKNOWN_BYTE.fullmatch(raw)
        return bytes([int(byte[1], 16)]) if byte else raw.replace("▁", " ").encode()


def _frame(processor: Any) -> tuple[str, str]:
    """What the chat template puts before and after a user's words; empty without a template."""
    if not getattr(processor, "chat_template", None):
        return "", ""

    def rendered(content: Callable[[str], Any], **texts: str) -> str:
        messages = [{"role": role, "content": content(text)} for role, text in texts.items()]
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    content = _content_form(rendered)
    before, _, after = rendered(content, user=_MARK).partition(_MARK)
    try:
        between = rendered(content, system=_SYSTEM, user=_MARK).partition(_SYSTEM)[2].partition(_MARK)[0]
    except TemplateError:  # how a template refuses system prompts: nothing but its own text can stand before
        between = before
    # what a given and what a default system prompt leave alike before the user's words
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(before), reversed(between), strict=False))
    return "".join(letter for letter, _ in alike)[::-1], after


def _content_form(rendered: Callable[..., str]) -> Callable[[str], Any]:
    """How a chat template takes a message's text: as a list of typed parts, or, where it knows no parts, as text.

    Raises:
        UnsupportedError: neither comes out as it went in.
    """
    reasons = []
    for form in (lambda text: [{"type": "text", "text": text}], lambda text: text):
        try:
            if _MARK in rendered(form, user=_MARK):
                return form
            reasons.append("a user's words are not in what it renders")
        except (TemplateError, TypeError) as error:
            reasons.append(" ".join(str(error).split())[:200])
    raise UnsupportedError(
        f"the processor's chat template cannot render a user's turn ({reasons[0]}; {reasons[1]}), so that instruction "
        f"and template cannot be distinguished; use the checkpoint's own template, or set "
        f"processor.chat_template = None where prompts are plain text"
    )
