"""Checks bounds in a configuration, and contradictions between its values. Torch-free."""

from __future__ import annotations

from clasp.budget import Budget
from clasp.categories import CATEGORIES, check_category
from clasp.config.schema import (
    OWN_DATA,
    CategoryConfig,
    FusionConfig,
    LauncherConfig,
    PolicyConfig,
    RunConfig,
    VariantConfig,
)
from clasp.methods.clasp.policy import check_weights
from clasp.strict import ConfigError, check_name, config_errors, shown


def check(config: RunConfig) -> None:
    """Checks everything below.

    Raises:
        ConfigError: names the value, what is allowed, and the remedy.
    """
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
        raise ConfigError(f"data={config.data} is only read by benchmarks={OWN_DATA}; add that, or leave out data")
    if config.device != "auto" and config.device.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {config.device!r}; use auto, cpu, mps, cuda or cuda:0")
    _check_launcher(config.launcher)
    _check_parts(config)
    for variant in config.grid.variants.values():
        _check_parts(variant)
    _check_rows(config)


def _check_launcher(launcher: LauncherConfig) -> None:
    least = {"cells_per_job": 1, "cores_per_process": 1, "gpus": 0, "cpus": 1, "minutes": 1}
    least |= {"array_parallelism": 1, "max_requeues": 0, "signal_s": 1}
    for name, bound in least.items():
        value = getattr(launcher, name)
        if value is not None and value < bound:
            raise ConfigError(f"launcher.{name}={value} is too small; use a whole number of at least {bound}")
    for name in ("partition", "account", "qos", "constraint"):  # written into a job's script
        value = getattr(launcher, name)
        if value is not None and not value.isprintable():
            raise ConfigError(f"launcher.{name}={shown(value)} is not printable; write it on one line")
    if launcher.memory_gb is not None and launcher.memory_gb <= 0:
        raise ConfigError(f"launcher.memory_gb={launcher.memory_gb:g} is not above 0; use a positive number")
    if launcher.signal_s >= 60 * launcher.minutes:
        raise ConfigError(
            f"launcher.signal_s={launcher.signal_s} is not less than launcher.minutes={launcher.minutes}; use fewer "
            "seconds or more minutes"
        )


def _check_parts(config: RunConfig | VariantConfig) -> None:
    if config.fusion is not None:
        _check_fusion(config.fusion)
    if config.policy is not None:
        _check_policy(config.policy)
    if config.router is not None and config.router.category is not None:
        with config_errors():
            check_category(config.router.category)


def _check_rows(config: RunConfig) -> None:
    """Checks that rows have distinct, printable names, and that the report names existing rows."""
    rows = [*config.grid.method, *config.grid.variants] or [config.method.name]
    for name in config.grid.variants:
        if not name.strip() or len(name) > 60 or not name.isprintable():
            raise ConfigError(f"grid.variants has the row {name!r}; use a printable name of at most 60 characters")
        if name in config.grid.method:
            raise ConfigError(f"grid has the row {name!r} twice, as a method and as a variant; rename the variant")
    for key in ("reference", "filter"):
        named = getattr(config.report, key)
        if named is not None and named not in rows:
            raise ConfigError(f"report.{key}={named!r} is no row; use one of {', '.join(rows)}")


def _check_budget(config: RunConfig) -> None:
    """Checks every requested budget; whether a method needs one is checked later."""
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
    asked = [(config.tokens, config.ratio), *((count, None) for count in grid.tokens)]
    asked += [(None, share) for share in grid.ratio]
    with config_errors():
        for tokens, ratio in asked:
            if tokens is not None or ratio is not None:
                Budget(tokens, ratio).resolve(config.backbone.visual_tokens)


def _check_fusion(fusion: FusionConfig) -> None:
    if fusion.name == "custom" and fusion.weights is None:
        raise ConfigError("fusion=custom needs weights, for example 'fusion.weights=[0.0,0.5,0.5]'")
    if fusion.name != "custom" and fusion.weights is not None:
        raise ConfigError(f"fusion={fusion.name} has its own weights; use fusion=custom to give others")
    if fusion.weights is not None:
        with config_errors():
            check_weights(fusion.weights)


def _check_policy(policy: PolicyConfig) -> None:
    stated = {name for name, row in policy.categories.items() if None not in (row.weights, row.pivot_share)}
    missing = [category for category in CATEGORIES if category not in stated]
    if policy.provenance == "calibrated" and missing:
        raise ConfigError(
            f"policy {policy.name!r} is called calibrated but has no weights and pivot_share for {', '.join(missing)}; "
            "write it with 'make calibrate'"
        )
    rows = [CategoryConfig(pivot_share=policy.pivot_share), *policy.categories.values()]
    with config_errors():
        for category in policy.categories:
            check_category(category)
        for row in rows:
            if row.weights is not None:
                check_weights(row.weights)
    for row in rows:
        if row.pivot_share is not None and not 0.0 <= row.pivot_share <= 1.0:
            raise ConfigError(f"pivot_share={row.pivot_share} is outside [0, 1]; it is a share of the stage's budget")
