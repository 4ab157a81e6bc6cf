"""Which image or video each placeholder of a batch of prompts stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, Modality, UnsupportedError, VisionPass
from clasp.engine.vision import Medium


class Placeholders:
    """Assigns the encoded media to the prompts' placeholders, in order.

    Beam search repeats prompts after they were encoded, so neighbouring rows may share their media.

    Args:
        ids: (batch, length) input ids on the CPU.
        valid: (batch, length) bool on the CPU, False at padding.
        passes: the encoder's calls of this prefill, one per modality.
        before: (batch, modalities) visual tokens of each row in earlier turns, for a prefill that follows on a cache;
            negative where that is not known. Their media may have been encoded again with the new ones, as a processor
            gives a whole conversation.

    Attributes:
        media: per row its media, in the order of the prompt.
        visual: (batch, length) bool on the CPU, the placeholders.
        medium, place: (batch, length) long on the CPU, per placeholder: which of the row's media, and which of that
            medium's visual tokens; -1 elsewhere.
        earlier: modalities of which media of earlier turns were encoded again.

    Raises:
        UnsupportedError: the placeholders are not those of the encoded media.
    """

    def __init__(
        self,
        adapter: Adapter,
        ids: Tensor,
        valid: Tensor,
        passes: Sequence[VisionPass],
        before: Tensor | None = None,
    ) -> None:
        rows = torch.full_like(ids, -1)
        order = list(adapter.placeholders)
        for number, token in enumerate(adapter.placeholders.values()):
            rows[(ids == token) & valid] = number
        self.visual = rows >= 0
        encoded = {vision_pass.modality: vision_pass for vision_pass in passes}
        for vision_pass in passes:
            adapter.read(vision_pass, ids.masked_fill(~valid, -1))
        counts = {name: adapter.counts(encoded[name]) if name in encoded else [] for name in order}
        media = {
            name: [Medium(adapter, encoded[name], i, tokens) for i, tokens in enumerate(counts[name])] for name in order
        }
        skipped = {} if before is None else self._skipped(rows, order, counts, before)
        self.earlier = set(skipped)
        copies = self._copies(rows, order, {name: counts[name] for name in order if name not in skipped})
        self.media: list[list[Medium]] = []
        self.medium = torch.full(rows.shape, -1)
        self.place = torch.full(rows.shape, -1)
        following = {name: iter(media[name]) for name in order}
        for row in range(len(rows)):
            if row % copies:  # a further beam of the row before it
                self.media.append(self.media[-1])
                self.medium[row][rows[row] >= 0] = self.medium[row - 1][rows[row - 1] >= 0]
                self.place[row][rows[row] >= 0] = self.place[row - 1][rows[row - 1] >= 0]
            else:
                for name, tokens in skipped.items():
                    self._skip(name, tokens[row], following[name])
                self.media.append(list(self._assign(row, rows[row], order, following)))
        for name in skipped:
            if left := len(list(following[name])):
                raise UnsupportedError(
                    f"{left} of {len(counts[name])} encoded {name}s have no placeholder in what follows on the cache; "
                    f"pass those of the whole conversation or the new ones alone, one {name} per placeholder"
                )

    @staticmethod
    def _skipped(
        kinds: Tensor, order: Sequence[Modality], counts: dict[Modality, list[int]], before: Tensor
    ) -> dict[Modality, list[int]]:
        """For each modality with more encoded media than placeholders: how many of each row's visual tokens belong to
        earlier turns."""
        skipped: dict[Modality, list[int]] = {}
        for number, name in enumerate(order):
            wanted, given = int((kinds == number).sum()), sum(counts[name])
            known = before[:, number].tolist()
            if min(known) < 0 and len(kinds) == 1:
                known = [given - wanted]
            if given and (not wanted or wanted % given) and min(known) >= 0:
                skipped[name] = known
        return skipped

    @staticmethod
    def _skip(name: Modality, tokens: int, media: Iterator[Medium]) -> None:
        """Passes over a row's media of earlier turns."""
        left = tokens
        while left > 0:
            medium = next(media, None)
            left = -1 if medium is None else left - medium.tokens
        if left:
            raise UnsupportedError(
                f"the {name}s of earlier turns had {tokens} visual tokens and have others now (LLaVA-OneVision cuts "
                f"the only image of a prompt); pass the new tokens and the new {name}s alone"
            )

    def _assign(
        self, row: int, kinds: Tensor, order: Sequence[Modality], following: dict[Modality, Iterator[Medium]]
    ) -> Iterator[Medium]:
        places = (kinds >= 0).nonzero().squeeze(1)
        modalities = kinds[places]
        start, number = 0, 0
        while start < len(places):
            name = order[int(modalities[start])]
            medium = next(following[name], None)
            end = start + (medium.tokens if medium else 1)
            if medium is None or end > len(places) or bool((modalities[start:end] != modalities[start]).any()):
                raise UnsupportedError(
                    f"prompt {row} has {int((modalities == modalities[start]).sum())} {name} placeholders, which is no "
                    f"whole number of the {name}s that follow it; build inputs with the backbone's processor, one "
                    f"{name} per placeholder in the text"
                )
            self.medium[row, places[start:end]] = number
            self.place[row, places[start:end]] = torch.arange(medium.tokens)
            yield medium
            start, number = end, number + 1

    @staticmethod
    def _copies(kinds: Tensor, order: Sequence[Modality], counts: dict[Modality, list[int]]) -> int:
        """How often each prompt stands in the batch: once, or as often as there are beams."""
        found = set()
        for number, name in enumerate(order):
            if name not in counts:
                continue
            wanted, given = int((kinds == number).sum()), sum(counts[name])
            if not wanted and not given:
                continue
            if not given or wanted % given or not wanted:
                raise UnsupportedError(
                    f"the prompts have {wanted} {name} placeholders, but the {len(counts[name])} encoded {name}s have "
                    f"{given} visual tokens; build inputs with the backbone's processor, one {name} per placeholder"
                )
            found.add(wanted // given)
        if len(found) > 1 or (found and len(kinds) % min(found)):
            raise UnsupportedError(
                "images and videos do not match the prompts' placeholders; build inputs with the backbone's processor"
            )
        return min(found, default=1)
