"""One seeded, resumable training loop, shared by the stages of the tiny backbone's training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from clasp.files import write_atomically


@dataclass(frozen=True)
class Plan:
    """Length and learning rates of one stage.

    Args:
        steps: total optimizer steps.
        rate: peak learning rate, reached after ``warmup`` steps and held until the last ``decay`` steps, over which it
            falls linearly to zero. The constant part does not depend on ``steps``, so a run may be resumed with another
            length.
        boost: factor on the learning rate of matrices updated by Muon.
        every: steps between two checkpoints.
    """

    steps: int
    rate: float = 2e-3
    warmup: int = 40
    decay: int = 200
    boost: float = 1.0
    every: int = 100

    def rate_at(self, step: int) -> float:
        """The learning rate of ``step`` (counted from 0)."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1, self.decay))
        return self.rate * min(rise, fall)


def device() -> torch.device:
    """CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Trainer:
    """Trains the parameters of ``modules`` on ``loss_of(step)`` and writes checkpoints from which the run can resume.

    Batches depend only on the step number, so optimizers and parameters are the complete state.
    Matrices of transformer blocks use Muon, everything else AdamW.
    """

    def __init__(self, stage: str, modules: Iterable[nn.Module], plan: Plan, folder: Path) -> None:
        self.stage, self.plan, self.folder = stage, plan, folder
        self.modules = list(modules)
        named = [(name, value) for module in self.modules for name, value in module.named_parameters()]
        self.parameters = [value for _, value in named if value.requires_grad]
        inner = [value for name, value in named if value.requires_grad and "layers." in name and value.ndim == 2]
        outer_ids = {id(value) for value in inner}
        outer = [value for value in self.parameters if id(value) not in outer_ids]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(outer, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0)
        ]
        if inner:
            self.optimizers.append(
                torch.optim.Muon(inner, lr=plan.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    @property
    def path(self) -> Path:
        """The stage's checkpoint file."""
        return self.folder / f"{self.stage}.pt"

    def resume(self) -> bool:
        """Loads the checkpoint's state; False if there is none."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, map_location=device(), weights_only=True)
        for module, values in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(values)
        if state["step"] < self.plan.steps:
            for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(values)
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        return True

    def save(self) -> None:
        """Writes the checkpoint; replaces the old one only when the new one is complete.

        At the stage's end it omits the optimizers' state, which is the largest part.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "modules": [module.state_dict() for module in self.modules],
            "optimizers": [o.state_dict() for o in self.optimizers] if self.step < self.plan.steps else [],
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def run(self, loss_of: Callable[[int], tuple[Tensor, dict[str, float]]], until: int | None = None) -> None:
        """Trains up to ``until`` (default: the plan's end); ``loss_of`` returns the loss and numbers for the log."""
        end = self.plan.steps if until is None else until
        bar = tqdm(total=end, initial=self.step, desc=self.stage, mininterval=10, ncols=160)
        mean: dict[str, float] = {}
        while self.step < end:
            started = time.perf_counter()
            rate = self.plan.rate_at(self.step)
            loss, numbers = loss_of(self.step)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * (self.plan.boost if isinstance(optimizer, torch.optim.Muon) else 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.seconds += time.perf_counter() - started
            for key, value in (numbers | {"loss": loss.item()}).items():
                mean[key] = value if key not in mean else 0.95 * mean[key] + 0.05 * value
            bar.set_postfix_str(" ".join(f"{key}={value:.3f}" for key, value in mean.items()), refresh=False)
            bar.update()
            if self.step % 50 == 0 or self.step == end:
                self.history.append({"step": self.step, "seconds": round(self.seconds, 1)} | mean)
            if self.step % self.plan.every == 0 or self.step == end:
                self.save()
        bar.close()

    def summary(self) -> dict[str, object]:
        """The stage's entry in the training log."""
        points = self.history[:: max(1, len(self.history) // 12)] + self.history[-1:]
        rounded = [{key: round(value, 4) for key, value in point.items()} for point in points]
        return {
            "stage": self.stage,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "plan": asdict(self.plan),
            "curve": rounded,
        }


def write_json(path: Path, value: object) -> None:
    """Writes JSON atomically: a reader sees the old or the new file, never a part."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
