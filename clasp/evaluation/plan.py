"""From a configuration to its cells. Mistakes in the configuration are found here, before a model loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clasp.backbones import adapter_module, check_trust, resolve, video_frames
from clasp.backbones.hub import own_text_tower
from clasp.backbones.presentation import Presentation
from clasp.budget import Budget, Geometry
from clasp.config import OWN_DATA, FusionConfig, MethodConfig, PolicyConfig, RouterConfig, RunConfig, VariantConfig
from clasp.evaluation.benchmarks import Benchmark, get_benchmark
from clasp.evaluation.identity import prompt_protocol, task_protocol, versions, weights_fingerprint
from clasp.evaluation.questions.custom import read as read_custom
from clasp.evaluation.questions.embedded import LocalFile, find
from clasp.evaluation.questions.videos import ensure_videos
from clasp.fingerprint import code_fingerprint
from clasp.results.store import CellSpec
from clasp.strict import ConfigError, config_errors

if TYPE_CHECKING:
    from clasp.methods.base import Method


@dataclass(frozen=True)
class Group:
    """The cells of one method at one budget, which share a pruned model; ``row`` is the first row that has them."""

    row: str
    method: Method
    budget: Mapping[str, Any]
    specs: tuple[CellSpec, ...]

    @property
    def label(self) -> str:
        return self.row if not self.method.prunes else f"{self.row} at {self.budget['tokens']}"


@dataclass(frozen=True)
class Plan:
    """All cells of a run, grouped; ``notices`` tell users what was left out, and why.

    ``rows`` are the lines of the experiment's tables: a row's name and its cells. Rows that are the same under several
    names (an ablation's row that is the default) share their cells. ``files`` are the question files of the benchmarks
    that are on this machine, by benchmark.
    """

    groups: tuple[Group, ...]
    geometry: Geometry
    rows: tuple[tuple[str, tuple[CellSpec, ...]], ...]
    benchmarks: tuple[Benchmark, ...]
    files: Mapping[str, LocalFile]
    notices: tuple[str, ...] = ()

    @property
    def cells(self) -> list[CellSpec]:
        return [spec for group in self.groups for spec in group.specs]


def plan(config: RunConfig, weights: str | None = None) -> Plan:
    """The cells of a run, each once, in the order of the configuration.

    ``weights``: fingerprint of the backbone, where it is known; the backbone's files are then not read.

    Raises:
        ConfigError: a benchmark, method, parameter or budget that the backbone cannot meet.
        BackboneUnavailable: the backbone's identity cannot be had.
    """
    notices: list[str] = []
    source, revision = config.backbone.source, config.backbone.revision
    if weights is None:
        check_trust(resolve(source), revision, config.backbone.trust)
    own = read_custom(config.data) if config.data is not None else None
    with config_errors():
        benchmarks = [
            own.benchmark if own is not None and name == OWN_DATA else get_benchmark(name)
            for name in dict.fromkeys(config.benchmarks.names)
        ]
    if shown := config.backbone.presentation.protocol:
        benchmarks = [dataclasses.replace(one, protocol=f"{one.protocol}, {shown}") for one in benchmarks]
    geometry = _geometry(config)
    adapter, presentation = adapter_module(source, revision, config.backbone.trust), config.backbone.presentation
    presentation.check(config.backbone.name, adapter)
    combinations = list(_possible(config, geometry, notices))
    files = find(config.paths.data, [benchmark.name for benchmark in benchmarks if benchmark.source == "local"])
    files |= _videos(config, benchmarks)
    if own is not None:
        files[own.benchmark.name] = own.file
    tasks, limits = _tasks(config, benchmarks, files)
    weights = weights or weights_fingerprint(source, revision, config.backbone.trust_remote_code)
    shared: dict[str, Any] = {"backbone": config.backbone.name, "weights": weights, "dtype": config.dtype}
    shared |= {"protocol": prompt_protocol(), "versions": versions()}
    if departing := presentation.identity():
        shared["presentation"] = departing | {"code": code_fingerprint(Presentation.__module__)}
    groups: list[Group] = []
    rows: list[tuple[str, tuple[CellSpec, ...]]] = []
    seen: set[str] = set()
    for name, method, budget in combinations:
        read = [adapter, *([Presentation.__module__] if method.resizes else [])]
        identity = method.identity(*read, text_tower=own_text_tower(resolve(source)))
        specs = tuple(
            CellSpec(
                method=identity,
                budget=budget,
                benchmark=benchmark.name,
                task=tasks[benchmark.name],
                limit=limits[benchmark.name],
                **shared,
            )
            for benchmark in benchmarks
        )
        rows.append((name, specs))
        fresh = tuple(spec for spec in specs if spec.signature not in seen)
        seen.update(spec.signature for spec in fresh)
        if fresh:
            groups.append(Group(name, method, budget, fresh))
    return Plan(tuple(groups), geometry, tuple(rows), tuple(benchmarks), files, tuple(dict.fromkeys(notices)))


def _geometry(config: RunConfig) -> Geometry:
    """The backbone's counts, which its configuration file must agree with."""
    from clasp.backbones import geometry

    backbone = config.backbone
    with config_errors():
        counts = geometry(backbone.source, backbone.revision, backbone.trust)
    if counts.visual_tokens != config.backbone.visual_tokens:
        raise ConfigError(
            f"backbone.visual_tokens={config.backbone.visual_tokens}, but {config.backbone.source} has "
            f"{counts.visual_tokens} visual tokens per image; correct configs/backbone/"
        )
    return counts


def most_cells(config: RunConfig) -> int:
    """Number of cells of a configuration, equal ones counted each time; needs no backbone."""
    return len(_combinations(config, [])) * len(set(config.benchmarks.names))


def _combinations(config: RunConfig, notices: list[str]) -> list[tuple[str, RunConfig, int | None, float | None]]:
    """(row, its configuration, tokens, ratio) for each of the grid; the unpruned model once, without a budget."""
    grid = config.grid
    budgets: list[tuple[int | None, float | None]] = [(tokens, None) for tokens in grid.tokens]
    budgets += [(None, ratio) for ratio in grid.ratio]
    if not budgets:
        budgets = [(config.tokens, config.ratio)]
    rows = [(name, _with_method(config, MethodConfig(name))) for name in grid.method]
    rows += [(name, _varied(config, variant)) for name, variant in grid.variants.items()]
    combinations: list[tuple[str, RunConfig, int | None, float | None]] = []
    for name, own in rows or [(config.method.name, config)]:
        if _class(own.method.name).prunes:
            combinations += [(name, own, tokens, ratio) for tokens, ratio in budgets]
        else:
            combinations.append((name, own, None, None))
            if not rows and (config.tokens is not None or config.ratio is not None):
                notices.append(f"method {name} keeps every visual token; the budget is not used")
    for _, own, tokens, ratio in combinations:
        if _class(own.method.name).prunes and tokens is None and ratio is None:
            raise ConfigError(
                f"method {own.method.name} needs a budget; give tokens=64 (or another count) or ratio=0.889"
            )
    return combinations


def _possible(
    config: RunConfig, geometry: Geometry, notices: list[str]
) -> Iterator[tuple[str, Method, dict[str, Any]]]:
    """(row, method, budget) of the grid; a grid of every method leaves out those that the backbone does not allow."""
    for name, own, tokens, ratio in _combinations(config, notices):
        method, budget = _method(own, tokens, ratio, geometry)
        try:
            method.check(geometry)
        except ValueError as error:
            if not (config.grid.every and name in config.grid.method):
                raise ConfigError(str(error)) from error
            notices.append(f"left out: {name}: {error}")
        else:
            yield name, method, budget


def _with_method(config: RunConfig, method: MethodConfig) -> RunConfig:
    """The run with this method; parameters of the run's own method hold for it too where it is the same one."""
    shared = config.method.params if method.name == config.method.name else {}
    return dataclasses.replace(config, method=MethodConfig(method.name, {**shared, **method.params}))


def _varied(config: RunConfig, variant: VariantConfig) -> RunConfig:
    if variant.method is not None:
        config = _with_method(config, variant.method)
    parts = {part: getattr(variant, part) for part in ("fusion", "policy", "router")}
    return dataclasses.replace(config, **{part: value for part, value in parts.items() if value is not None})


def _class(name: str) -> type[Method]:
    from clasp.methods import get

    with config_errors():
        return get(name)


def _method(
    config: RunConfig, tokens: int | None, ratio: float | None, geometry: Geometry
) -> tuple[Method, dict[str, Any]]:
    """The method, unchecked, and its budget, as a token count where possible: ratio and count are then one cell."""
    from clasp.methods import build

    name, own = config.method.name, dict(config.method.params)
    accepted = {field.name for field in dataclasses.fields(_class(name))}
    count = geometry.visual_tokens
    with config_errors(TypeError):
        if tokens is not None or ratio is not None:
            count = Budget(tokens, ratio).resolve(count)
            # images that differ in size have no common count
            own |= {"ratio": ratio} if geometry.dynamic and ratio is not None else {"tokens": count}
        # CLASP draws in one of its completion rules only, and a run's seed does not affect the others
        drawing = own.get("completion", getattr(_class(name), "completion", "random")) == "random"
        if "seed" in accepted and drawing:
            own.setdefault("seed", config.seed)
        if "fusion" in accepted:
            own |= {"fusion": _fusion(config.fusion), "policy": _policy(config.policy)}
            own["router"] = _router(config.router)
        method = build(name, own)
    return method, {"tokens": count, "ratio": ratio, "visual_tokens": geometry.visual_tokens}


def _fusion(config: FusionConfig) -> Any:
    from clasp.methods.clasp.fusion import Fusion, get_fusion

    fusion = Fusion("custom", config.weights) if config.name == "custom" else get_fusion(config.name)
    own: dict[str, Any] = {"layers": config.layers, "layer_set": config.layer_set, "rescale": config.rescale}
    return dataclasses.replace(fusion, **{name: value for name, value in own.items() if value is not None})


def _policy(config: PolicyConfig) -> Any:
    """The library's table with the configuration's rows; its provenance is calibrated only where no row was changed."""
    from clasp.methods.clasp.policy import DEFAULT_POLICY, CategoryPolicy, ClassPolicy

    entries = dict(DEFAULT_POLICY.entries)
    for category, entry in entries.items():
        row = config.categories.get(category)
        weights = row.weights if row is not None and row.weights is not None else entry.weights
        share = row.pivot_share if row is not None and row.pivot_share is not None else entry.pivot_share
        entries[category] = CategoryPolicy(weights, share if config.pivot_share is None else config.pivot_share)
    if entries == dict(DEFAULT_POLICY.entries):
        return DEFAULT_POLICY
    return ClassPolicy(*(("calibrated",) * 2 if config.calibrated else ("custom", "assumption")), entries)


def _router(config: RouterConfig) -> Any:
    from clasp.methods.clasp.router import FixedRouter, RandomRouter, available_router

    if config.category is not None and config.name != FixedRouter.name:
        raise ValueError(f"router={config.name} takes no category; use router=fixed router.category={config.category}")
    if config.seed is not None and config.name != RandomRouter.name:
        raise ValueError(f"router={config.name} takes no seed; use router=random router.seed={config.seed}")
    if config.category is not None:
        return FixedRouter(config.category)
    return available_router(config.name) if config.seed is None else RandomRouter(config.seed)


def _videos(config: RunConfig, benchmarks: list[Benchmark]) -> dict[str, LocalFile]:
    """The files of the video question sets asked for, which must be there for a backbone that takes videos."""
    names = [benchmark.name for benchmark in benchmarks if benchmark.source == "files"]
    backbone = config.backbone
    if names and video_frames(backbone.source, backbone.revision, backbone.trust) is None:
        raise ConfigError(
            f"backbone={config.backbone.name} is asked no questions about videos ({names[0]}); use "
            "backbone=video_llava_7b, or other benchmarks"
        )
    return ensure_videos(config.paths.data, names, config.limit)


def _tasks(
    config: RunConfig, benchmarks: list[Benchmark], files: Mapping[str, LocalFile]
) -> tuple[dict[str, dict[str, Any]], dict[str, int | str]]:
    """Per benchmark: its questions, its scoring and its limit."""
    tasks = {benchmark.name: task_protocol(benchmark) for benchmark in benchmarks}
    limits: dict[str, int | str] = dict.fromkeys(tasks, config.limit)
    for name, file in files.items():
        tasks[name]["content"] = file.content
        if config.limit != "all":
            # a limit that all questions are within is the same cell as no limit
            limits[name] = "all" if config.limit >= file.questions else file.whole(config.limit)
    return tasks, limits
