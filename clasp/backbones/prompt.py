"""Which tokens of a prompt are the instruction: after the image, without system prompt and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MARK = "\x07instruction\x07"


class PromptReader:
    """Reads instructions out of token ids.

    Args:
        processor: a transformers processor with a tokenizer; its chat template, where it has one, tells which text
            around the instruction is template.
        image_token_id: the placeholder's id.
    """

    def __init__(self, processor: Any, image_token_id: int) -> None:
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._image_token_id = image_token_id
        self._special = {*self._tokenizer.all_special_ids, image_token_id} - {self._tokenizer.unk_token_id}
        self.before, self.after = _template_around(processor)

    def text(self, ids: Sequence[int]) -> str:
        """The instruction text of a prompt; empty when there is none.

        Args:
            ids: the prompt's token ids without padding.
        """
        text = self._tokenizer.decode([i for i in ids if i not in self._special]).strip()
        cut = text.rfind(self.after) if self.after else -1
        text = text[:cut] if cut >= 0 else text
        return text.removeprefix(self.before).strip()

    def positions(self, ids: Sequence[int]) -> list[int]:
        """Indices of the instruction's tokens that can see the image; the last token where no other can.

        Args:
            ids: the prompt's token ids without padding.
        """
        start = max((i for i, token in enumerate(ids) if token == self._image_token_id), default=-1) + 1
        pieces = [self._piece(token) for token in ids[start:]]
        cut = "".join(pieces).rfind(self.after) if self.after else -1
        positions, length = [], 0
        for i, (token, piece) in enumerate(zip(ids[start:], pieces, strict=True), start):
            begins = length + len(piece) - len(piece.lstrip())
            length += len(piece)
            if piece.strip() and token not in self._special and (cut < 0 or begins < cut):
                positions.append(i)
        return positions or [len(ids) - 1]

    def _piece(self, token: int) -> str:
        """The token's own text, from the raw vocabulary: decoding one token alone drops its leading space."""
        raw = self._tokenizer.convert_ids_to_tokens(int(token))
        return raw.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")


def _template_around(processor: Any) -> tuple[str, str]:
    """What the chat template puts before and after an instruction that follows an image; empty without a template."""
    if not getattr(processor, "chat_template", None):
        return "", ""
    content = [{"type": "image"}, {"type": "text", "text": _MARK}]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    before, found, after = rendered.partition(_MARK)
    if not found:
        return "", ""
    tokenizer = getattr(processor, "tokenizer", processor)
    placeholder = getattr(processor, "image_token", None)
    drop = [*tokenizer.all_special_tokens, *([placeholder] if placeholder else [])]
    for token in drop:
        before, after = before.replace(token, ""), after.replace(token, "")
    return before.strip(), after.strip()
