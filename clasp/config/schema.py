"""The sections of a run's configuration, as frozen dataclasses. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clasp.backbones.presentation import Presentation
from clasp.backbones.trust import Trust
from clasp.methods import METHODS
from clasp.results.schema import Figure, Table
from clasp.strict import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
OWN_DATA = "custom"
"""The name in ``benchmarks.names`` of the user's own questions, the file that ``data`` names."""


@dataclass(frozen=True)
class BackboneConfig:
    """The model that is pruned.

    Args:
        name: for tables.
        source: ``tiny``, a hub id, or a local folder.
        visual_tokens: per image; checked against the model's configuration before anything runs.
        revision: commit of the hub repository; None: its current one, which the cell records.
        vision_cache_mib: on a CPU, MiB of memory to cache the ViT layers' output per image, for further methods,
            budgets and questions; 0: no cache. Answers are bit-identical with and without it.
        dtype: floating-point type of the weights and activations.
        batch_size: questions per forward pass, a default for the model's usual machine.
        allow_pickle, trust_remote_code: see :class:`clasp.backbones.Trust`; both let files run code on loading.
        preprocessing, system_prompt, min_pixels, max_pixels, frames: differences from the processor's defaults, see
            :class:`clasp.backbones.presentation.Presentation`.
    """

    name: str
    source: str
    visual_tokens: int
    dtype: Dtype
    batch_size: int
    revision: str | None = None
    vision_cache_mib: int = 0
    allow_pickle: bool = False
    trust_remote_code: bool = False
    preprocessing: Literal["processor", "pad"] = "processor"
    system_prompt: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    frames: int | None = None

    @property
    def presentation(self) -> Presentation:
        """How images and prompts are presented to the model, where this differs from its processor's defaults."""
        return Presentation(self.preprocessing, self.system_prompt, self.min_pixels, self.max_pixels, self.frames)

    @property
    def trust(self) -> Trust:
        """What its files are allowed to do."""
        return Trust(self.allow_pickle, self.trust_remote_code)


@dataclass(frozen=True)
class MethodConfig:
    """A method by name; ``params`` holds only values that differ from the library's defaults."""

    name: str
    params: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MethodConfig:
        """All keys but ``name`` are the method's parameters; null keeps the library's default."""
        if not isinstance(values.get("name"), str):
            raise ConfigError("key 'method.name' is missing; choose a method with method=clasp")
        params = {
            str(key): tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
            if key != "name" and value is not None
        }
        return cls(values["name"], params)


@dataclass(frozen=True)
class FusionConfig:
    """Layer fusion by name (see ``clasp.methods.clasp.fusion.FUSIONS``), or ``custom`` with given weights.

    Args:
        layers, layer_set: the ViT layers, by index or by a set's name (``LayerSet``); both None: the set ``even``.
    """

    name: str
    weights: tuple[float, ...] | None = None
    layers: tuple[int, ...] | None = None
    layer_set: str | None = None
    rescale: bool = True


@dataclass(frozen=True)
class CategoryConfig:
    """Overrides of one row of the policy table; None keeps the row's value."""

    weights: tuple[float, ...] | None = None
    pivot_share: float | None = None


def rows_hash(rows: Mapping[str, CategoryConfig]) -> str:
    """Hash of a policy's rows, to detect overrides of a calibrated table."""
    values = {category: [row.weights, row.pivot_share] for category, row in rows.items()}
    # without the prefix, YAML could read the hash as a number, such as 12e34567
    return f"sha256:{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class FixedConfig:
    """A fusion by name and a pivot share, the same for every category.

    Args:
        fusion, pivot_share: the best ones.
        fused: the best fusion that mixes ViT layers, for the rows of ablation c with fusion.
        both: the best pivot share with both pivots and completion, for the rows of ablation c with both.
    """

    fusion: str
    pivot_share: float
    fused: str
    both: float


@dataclass(frozen=True)
class PolicyConfig:
    """The class policy: the library's table with overrides, or a calibrated one that states all rows.

    Args:
        name: for results; that of a calibrated table is its backbone's.
        pivot_share: replaces that of every row.
        categories: rows that differ from the library's table; all rows if ``provenance`` is ``calibrated``.
        provenance: the origin of the rows; a table with overrides is an assumption.
        fixed: the best setting shared by all categories, with which ablation c compares the table.
        calibration: how a calibrated table was made (data hash, curve, command). Only its ``rows``, the
            :func:`rows_hash` of the calibrated table, is used here; the rest is information.
    """

    name: str
    pivot_share: float | None = None
    categories: Mapping[str, CategoryConfig] = field(default_factory=dict)
    provenance: Literal["assumption", "calibrated"] = "assumption"
    fixed: FixedConfig | None = None
    calibration: Mapping[str, object] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether the table is calibrated and nothing in it is overridden."""
        kept = self.calibration.get("rows") == rows_hash(self.categories)
        return self.provenance == "calibrated" and self.pivot_share is None and kept


@dataclass(frozen=True)
class RouterConfig:
    """The text router by name; ``category`` is for the router ``fixed`` only, ``seed`` for ``random``."""

    name: str
    category: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class BenchmarksConfig:
    """A named set of benchmarks; ``limit`` is the set's default number of questions per benchmark."""

    name: str
    names: tuple[str, ...]
    limit: int | Literal["all"]


@dataclass(frozen=True)
class PathsConfig:
    """Folders: ``results`` of what runs write, ``data`` of benchmark files, which are built on first use."""

    results: Path
    data: Path


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; ``mode`` None: as the environment says, else offline."""

    enabled: bool
    project: str
    mode: Literal["online", "offline"] | None = None
    entity: str | None = None


@dataclass(frozen=True)
class VariantConfig:
    """A named row of an experiment; None keeps the run's own value."""

    method: MethodConfig | None = None
    fusion: FusionConfig | None = None
    policy: PolicyConfig | None = None
    router: RouterConfig | None = None


ALL = "all"
"""As an experiment's methods: all that the backbone and the budget allow, in the order of tables."""


@dataclass(frozen=True)
class GridConfig:
    """Rows of an experiment, each at every budget. Empty: the one method and budget of the run itself.

    Args:
        method: methods by name, or only ``all``; the unpruned model has no budget, so it is one row.
        variants: further rows by the name that tables show.
        tokens: budgets as counts; or
        ratio: budgets as shares removed.
    """

    method: tuple[str, ...] = ()
    variants: Mapping[str, VariantConfig] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()
    ratio: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method == (ALL,):
            object.__setattr__(self, "method", tuple(METHODS))

    @property
    def every(self) -> bool:
        """Whether all methods are requested; those that the backbone or the budget does not allow are then left out."""
        return self.method == tuple(METHODS)


@dataclass(frozen=True)
class LauncherConfig:
    """Where a sweep's cells are computed.

    Args:
        kind: ``basic``, one after the other in this process; ``local``, processes on this machine; ``slurm``, jobs.
        cells_per_job: cells of one SLURM job at most.
        cores_per_process: cores and threads of a process, for ``local`` without GPUs.
        wait: whether the command waits for the jobs.
        partition, account, qos, constraint: as ``sbatch`` takes them.
        gpus, cpus, memory_gb, minutes: resources of one SLURM job.
        array_parallelism: most jobs at the same time.
        max_requeues: how often a job that reached its time limit is queued again.
        signal_s: seconds before the time limit at which a job stops by itself.
        setup: shell commands to run before Python.
        sbatch: further options of ``sbatch`` by name.
    """

    kind: Literal["basic", "local", "slurm"] = "basic"
    cells_per_job: int = 16
    cores_per_process: int = 1
    wait: bool = True
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = None
    cpus: int = 1
    memory_gb: float | None = None
    minutes: int = 60
    array_parallelism: int = 16
    max_requeues: int = 10
    signal_s: int = 120
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, object] | None = None


@dataclass(frozen=True)
class ReportConfig:
    """How a report shows the cells; stored with the experiment, so that tables need no configuration.

    Args:
        title: of the table.
        table: ``accuracy`` (scores and averages), ``efficiency`` (times, FLOPs, cache) or ``categories`` (scores by
            question category).
        figures: the figures to draw.
        reference: the row that all others are tested against, over the same questions.
        published: name of the backbone whose published rows are set beside this table.
        filter: a downsampling row, for example ``pool``; adds a column with the scores on the questions that this row
            answers wrong and the unpruned model right.
    """

    title: str = ""
    table: Table = "accuracy"
    figures: tuple[Figure, ...] = ("accuracy_vs_flops",)
    reference: str | None = None
    published: str | None = None
    filter: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run."""

    name: str
    backbone: BackboneConfig
    method: MethodConfig
    fusion: FusionConfig
    policy: PolicyConfig
    router: RouterConfig
    benchmarks: BenchmarksConfig
    limit: int | Literal["all"]
    batch_size: int
    seed: int
    dtype: Dtype
    device: str
    paths: PathsConfig
    wandb: WandbConfig
    tokens: int | None = None
    ratio: float | None = None
    grid: GridConfig = GridConfig()
    report: ReportConfig = ReportConfig()
    launcher: LauncherConfig = LauncherConfig()
    data: Path | None = None
