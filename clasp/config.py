"""The configuration of a run as frozen dataclasses, and the strict loader that makes them from plain dictionaries.

Hydra composes a configuration, the entry point turns it into a dictionary, and :func:`load_config` makes a
:class:`RunConfig` of it or says in one sentence what is wrong. Library code never sees a ``DictConfig``. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clasp.backbones.trust import Trust
from clasp.budget import Budget
from clasp.policy import CATEGORIES, check_category, check_weights
from clasp.strict import ConfigError, build, check_name, known_fields

Dtype = Literal["float32", "bfloat16", "float16"]
OWN_DATA = "custom"
"""Name that stands for the file under ``data`` in ``benchmarks.names``."""


@dataclass(frozen=True)
class BackboneConfig:
    """Which model is pruned.

    Args:
        name: for tables.
        source: ``tiny``, a hub id, or a local folder.
        visual_tokens: per image; checked against the model's own configuration before anything runs.
        revision: commit of the hub repository; None takes its current one, and the cell records which that was.
        vision_cache_mib: on a CPU, memory for what ViT layers returned, which further methods on the same pictures use.
        dtype: floating-point type of the weights and activations.
        batch_size: questions per forward pass that suits the model's usual machine.
        allow_pickle, trust_remote_code: see :class:`clasp.backbones.Trust`; both let files run code when they load.
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

    @property
    def trust(self) -> Trust:
        """What its files may do."""
        return Trust(self.allow_pickle, self.trust_remote_code)


@dataclass(frozen=True)
class MethodConfig:
    """A method by name; ``params`` holds only what departs from the library's defaults."""

    name: str
    params: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MethodConfig:
        """Keys beside ``name`` are the method's own parameters; null keeps the library's default."""
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
    """Layer fusion by name (see ``clasp.fusion.FUSIONS``), or ``custom`` with weights of one's own.

    Args:
        layers, layer_set: which ViT layers, one of the two ways; None: the set ``even`` (``clasp.fusion.LayerSet``).
    """

    name: str
    weights: tuple[float, ...] | None = None
    layers: tuple[int, ...] | None = None
    layer_set: str | None = None
    rescale: bool = True


@dataclass(frozen=True)
class CategoryConfig:
    """Overrides of one row of the policy table; None keeps the row's own value."""

    weights: tuple[float, ...] | None = None
    pivot_share: float | None = None


def rows_hash(rows: Mapping[str, CategoryConfig]) -> str:
    """Hash of a policy's rows, by which a calibrated table tells whether a row of it was overridden."""
    values = {category: [row.weights, row.pivot_share] for category, row in rows.items()}
    # the prefix keeps YAML from reading digits and an e as a number
    return f"sha256:{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class FixedConfig:
    """A fusion by name and a pivot share, the same for every category."""

    fusion: str
    pivot_share: float


@dataclass(frozen=True)
class PolicyConfig:
    """The class policy: the library's table with overrides, or a calibrated one that states all rows.

    Args:
        name: for results; a calibrated table has its backbone's.
        pivot_share: for all categories, whatever their rows say.
        categories: rows that depart from the library's table; all of them where ``provenance`` is ``calibrated``.
        provenance: where the rows come from; overrides make any table an assumption.
        fixed: the best setting that is the same for all categories; ablation c compares the rows with it.
        calibration: what a calibrated table was made from (data hash, curve, command); for readers, not for scores,
            but for ``rows``, the :func:`rows_hash` of the table as it was calibrated.
    """

    name: str
    pivot_share: float | None = None
    categories: Mapping[str, CategoryConfig] = field(default_factory=dict)
    provenance: Literal["assumption", "calibrated"] = "assumption"
    fixed: FixedConfig | None = None
    calibration: Mapping[str, object] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether these are the rows that were calibrated, none of them overridden."""
        kept = self.calibration.get("rows") == rows_hash(self.categories)
        return self.provenance == "calibrated" and self.pivot_share is None and kept


@dataclass(frozen=True)
class RouterConfig:
    """The text router by name; ``category`` belongs to the router ``fixed`` alone, ``seed`` to ``random``."""

    name: str
    category: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class BenchmarksConfig:
    """A named set of benchmarks; ``limit`` is the set's usual number of questions per benchmark."""

    name: str
    names: tuple[str, ...]
    limit: int | Literal["all"]


@dataclass(frozen=True)
class PathsConfig:
    """Where files go: ``results`` for what runs write, ``data`` for benchmark files built on first use."""

    results: Path
    data: Path


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases: ``enabled`` is the one switch; ``mode`` None: as the user's environment says, else offline."""

    enabled: bool
    project: str
    mode: Literal["online", "offline"] | None = None
    entity: str | None = None


@dataclass(frozen=True)
class VariantConfig:
    """A row of an experiment under a name of its own: what departs from the run's configuration; None keeps that."""

    method: MethodConfig | None = None
    fusion: FusionConfig | None = None
    policy: PolicyConfig | None = None
    router: RouterConfig | None = None


@dataclass(frozen=True)
class GridConfig:
    """Rows of an experiment, each at every budget. Empty: the one method and budget of the run itself.

    Args:
        method: methods by name; the unpruned model has no budget and comes once.
        variants: further rows by the name that tables show.
        tokens: budgets as counts; or
        ratio: budgets as shares removed.
    """

    method: tuple[str, ...] = ()
    variants: Mapping[str, VariantConfig] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()
    ratio: tuple[float, ...] = ()


@dataclass(frozen=True)
class LauncherConfig:
    """Where a sweep's cells are computed.

    Args:
        kind: ``basic``, one after the other in this process; ``local``, processes on this machine; ``slurm``, jobs.
        cells_per_job: cells of one SLURM job at most.
        processes: that share the questions of each cell of a job, one per GPU.
        cores_per_process: of ``local`` without a GPU; also its number of threads.
        wait: whether the call stays until the jobs have ended.
        pack: which pack of the sweep this job computes; set by the launcher itself.
        partition, account, qos, constraint: as ``sbatch`` takes them.
        gpus, cpus, memory_gb, minutes: of one SLURM job.
        array_parallelism: jobs at the same time.
        max_requeues: how often a job that ran into its time limit is queued again.
        signal_s: seconds before the time limit at which it stops by itself.
        setup: shell commands before Python starts.
        sbatch: further options by name.
        assumed_tmacs: 1e12 multiply-adds a second that a device is taken to do in prefill, for estimates where nothing
            was measured; None: the library's assumption.
    """

    kind: Literal["basic", "local", "slurm"] = "basic"
    cells_per_job: int = 16
    processes: int = 1
    cores_per_process: int = 1
    wait: bool = True
    pack: int | None = None
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
    assumed_tmacs: float | None = None


Figure = Literal["accuracy_vs_flops", "score_vs_budget", "heatmap"]


@dataclass(frozen=True)
class ReportConfig:
    """What a report makes of the cells; kept with the experiment, so that tables are built without a configuration.

    Args:
        title: of the table.
        table: ``accuracy`` (scores and averages), ``efficiency`` (times, FLOPs, cache) or ``categories`` (scores by
            question category).
        figures: which figures are drawn.
        reference: the row that every other one is tested against, over the same questions.
        published: name of the backbone whose published rows belong beside this table.
    """

    title: str = ""
    table: Literal["accuracy", "efficiency", "categories"] = "accuracy"
    figures: tuple[Figure, ...] = ("accuracy_vs_flops",)
    reference: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that one call of the runner needs."""

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


def load_config(values: Mapping[str, Any]) -> RunConfig:
    """A :class:`RunConfig` from a plain dictionary.

    Raises:
        ConfigError: an unknown key (the known ones are listed), a value of the wrong type, or values that contradict
            each other.
    """
    config = build(RunConfig, values)
    _check(config)
    return config


def known_keys(path: str = "") -> tuple[str, ...]:
    """The keys under a dotted path of the configuration, empty where the path leads to no section."""
    return known_fields(RunConfig, path)


def _check(config: RunConfig) -> None:
    """What no single value shows: contradictions and bounds that hold for every backbone."""
    _check_budget(config)
    check_name("name", config.name)
    check_name("backbone.name", config.backbone.name)
    if config.report.published is not None:
        check_name("report.published", config.report.published)
    for name, value in (("batch_size", config.batch_size), ("limit", config.limit)):
        if isinstance(value, int) and value < 1:
            allowed = "a whole number of at least 1" + (" or all" if name == "limit" else "")
            raise ConfigError(f"{name}={value} is too small; use {allowed}")
    if not config.benchmarks.names:
        raise ConfigError("benchmarks.names is empty; name at least one benchmark")
    if OWN_DATA in config.benchmarks.names and config.data is None:
        raise ConfigError(f"benchmarks={OWN_DATA} needs the file of your questions; give it with data=my.jsonl")
    if OWN_DATA not in config.benchmarks.names and config.data is not None:
        raise ConfigError(f"data={config.data} is read by benchmarks={OWN_DATA} alone; add that, or leave out data")
    if config.device != "auto" and config.device.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {config.device!r}; use auto, cpu, mps, cuda or cuda:0")
    _check_launcher(config.launcher)
    _check_parts(config)
    for variant in config.grid.variants.values():
        _check_parts(variant)
    _check_rows(config)


def _check_launcher(launcher: LauncherConfig) -> None:
    least = {"cells_per_job": 1, "processes": 1, "cores_per_process": 1, "gpus": 0, "cpus": 1, "minutes": 1}
    least |= {"array_parallelism": 1, "max_requeues": 0, "signal_s": 1}
    for name, bound in least.items():
        value = getattr(launcher, name)
        if value is not None and value < bound:
            raise ConfigError(f"launcher.{name}={value} is too small; use a whole number of at least {bound}")
    if launcher.memory_gb is not None and launcher.memory_gb <= 0:
        raise ConfigError(f"launcher.memory_gb={launcher.memory_gb:g} is no amount of memory; use a positive number")
    if launcher.assumed_tmacs is not None and launcher.assumed_tmacs <= 0:
        raise ConfigError(f"launcher.assumed_tmacs={launcher.assumed_tmacs:g} is no speed; use a positive number")
    if launcher.kind == "slurm" and launcher.gpus and launcher.processes > launcher.gpus:
        raise ConfigError(
            f"launcher.processes={launcher.processes} is more than launcher.gpus={launcher.gpus}; each process has a "
            "GPU of its own"
        )
    if launcher.signal_s >= 60 * launcher.minutes:
        raise ConfigError(
            f"launcher.signal_s={launcher.signal_s} leaves nothing of launcher.minutes={launcher.minutes}; use fewer "
            "seconds or more minutes"
        )


def _check_parts(config: RunConfig | VariantConfig) -> None:
    if config.fusion is not None:
        _check_fusion(config.fusion)
    if config.policy is not None:
        _check_policy(config.policy)
    if config.router is not None and config.router.category is not None:
        _raising(check_category, config.router.category)


def _check_rows(config: RunConfig) -> None:
    """Names of rows, which tables and tests tell apart by them."""
    rows = [*config.grid.method, *config.grid.variants] or [config.method.name]
    for name in config.grid.variants:
        if not name.strip() or len(name) > 60 or not name.isprintable():
            raise ConfigError(f"grid.variants has the row {name!r}; use a printable name of at most 60 characters")
        if name in config.grid.method:
            raise ConfigError(f"grid has the row {name!r} twice, as a method and as a variant; rename the variant")
    if config.report.reference is not None and config.report.reference not in rows:
        raise ConfigError(f"report.reference={config.report.reference!r} is no row; use one of {', '.join(rows)}")


def _check_budget(config: RunConfig) -> None:
    """Bounds of every budget asked for; whether one is needed at all depends on the method and is checked later."""
    grid = config.grid
    if grid.tokens and grid.ratio:
        raise ConfigError("grid has both tokens and ratio; give one of the two")
    if config.tokens is not None and config.ratio is not None:
        raise ConfigError(f"tokens={config.tokens} and ratio={config.ratio} are both given; give one of the two")
    if (grid.tokens or grid.ratio) and (config.tokens is not None or config.ratio is not None):
        raise ConfigError(
            f"the experiment sets the budgets {list(grid.tokens or grid.ratio)} itself; "
            "change them with 'grid.tokens=[64]' or leave out tokens and ratio"
        )
    counts = [config.tokens, *grid.tokens] if config.tokens is not None else list(grid.tokens)
    shares = [config.ratio, *grid.ratio] if config.ratio is not None else list(grid.ratio)
    for count in counts:
        _raising(_resolve, count, None, config.backbone.visual_tokens)
    for share in shares:
        _raising(_resolve, None, share, config.backbone.visual_tokens)


def _resolve(tokens: int | None, ratio: float | None, visual_tokens: int) -> int:
    return Budget(tokens, ratio).resolve(visual_tokens)


def _check_fusion(fusion: FusionConfig) -> None:
    if fusion.name == "custom" and fusion.weights is None:
        raise ConfigError("fusion=custom needs weights, for example 'fusion.weights=[0.0,0.5,0.5]'")
    if fusion.name != "custom" and fusion.weights is not None:
        raise ConfigError(f"fusion={fusion.name} has its own weights; use fusion=custom to give others")
    if fusion.weights is not None:
        _raising(check_weights, fusion.weights)


def _check_policy(policy: PolicyConfig) -> None:
    missing = [
        category
        for category in CATEGORIES
        if (row := policy.categories.get(category)) is None or row.weights is None or row.pivot_share is None
    ]
    if policy.provenance == "calibrated" and missing:
        raise ConfigError(
            f"policy {policy.name!r} is called calibrated but has no weights and pivot_share for {', '.join(missing)}; "
            "write it with 'make calibrate'"
        )
    rows = [CategoryConfig(pivot_share=policy.pivot_share), *policy.categories.values()]
    for category in policy.categories:
        _raising(check_category, category)
    for row in rows:
        if row.weights is not None:
            _raising(check_weights, row.weights)
        if row.pivot_share is not None and not 0.0 <= row.pivot_share <= 1.0:
            raise ConfigError(f"pivot_share={row.pivot_share} is outside [0, 1]; it is a share of the stage's budget")


def _raising(check: Callable[..., object], *arguments: Any) -> None:
    """Runs a library check, its ValueError becoming a ConfigError with the same sentence."""
    try:
        check(*arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from error
