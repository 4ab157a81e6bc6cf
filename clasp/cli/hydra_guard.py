"""Refuses configurations whose section ``hydra`` would set variables, start programs or write files. Torch-free.

A configuration may come from somebody else, so it must be data only. :func:`check_section` refuses every key of that
section that acts, wherever it comes from: command line, experiment, or a folder on the search path. It runs as soon as
Hydra has composed a configuration, before Hydra opens a log, makes a folder or calls anything (:func:`guard`).

Hydra's copies of the configuration hold full paths and nothing that cells and experiments do not record, so none is
written for a job (``hydra.output_subdir: null``). For a sweep, Hydra always writes ``multirun.yaml``, which
:class:`Redacted` redacts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.experimental.callback import Callback
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from clasp.data import data_folder
from clasp.files import write_atomically
from clasp.redact import redact
from clasp.strict import ConfigError, check_name, shown

TARGETS = (
    *("clasp.cli.hydra_guard.Redacted", "hydra._internal.core_plugins.*"),
    *("logging.StreamHandler", "logging.FileHandler"),
)
"""Allowed values of ``_target_``; with any other value, Hydra could be made to run arbitrary code."""

CONFIGS = data_folder("configs")

_FIXED: dict[str, Any] = {
    "job.env_set": {},  # variables of git, of the loader, of Python start programs
    "job.env_copy": [],
    "job.chdir": False,
    "output_subdir": None,  # would write files of known names to any folder
    "callbacks": {"redacted": {"_target_": "clasp.cli.hydra_guard.Redacted"}},  # others would be called
    # Hydra composes all jobs here; our own group `launcher` decides where cells are computed
    "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
}
"""Keys below ``hydra`` with the only values allowed: those of ``configs/config.yaml`` and of Hydra."""

_FOLDERS = {
    "run.dir": "${paths.results}/logs/${clasp.name:${name}}",
    "sweep.dir": "${paths.results}/logs/sweep",
    "sweep.subdir": "${hydra.job.num}",
}
"""Folders below ``hydra`` as configurations write them; any other ``dir`` must be below ``paths.results``."""

_SHELL = ("setup", "sbatch")
"""Keys below ``launcher`` that go to a job's shell: allowed on the command line and in ``configs/launcher/`` only."""


MOST_LEVELS = 10_000
"""Most characters of a configuration file that open a level. At about 25,000 levels libyaml, which Hydra reads files
with, overflows the stack and ends the process; OmegaConf refuses files of over 10,000 values anyway."""


def guard() -> None:
    """Makes Hydra check every file that it reads, and every configuration that it composes (:func:`check_section`)."""
    compose = ConfigLoaderImpl._load_configuration_impl
    if hasattr(compose, "__wrapped__"):
        return

    @functools.wraps(compose)
    def checked(*arguments: Any, **named: Any) -> DictConfig:
        config = compose(*arguments, **named)
        check_section(config)
        return config

    load = FileConfigSource.load_config

    def shallow(self: FileConfigSource, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.is_file() and sum(map(path.read_bytes().count, (b"[", b"{", b"?", b"-"))) > MOST_LEVELS:
            raise ConfigError(f"{path} is nested too deeply or too large; write it shorter")
        return load(self, config_path)

    # Hydra has no hook for either
    ConfigLoaderImpl._load_configuration_impl = checked  # type: ignore[method-assign]
    FileConfigSource.load_config = shallow  # type: ignore[method-assign]


def check_section(config: DictConfig) -> None:
    """Checks the sections ``hydra`` and ``launcher`` of a composed configuration.

    Raises:
        ConfigError: a value could run code, or write files outside of the results.
    """
    values: Any = OmegaConf.to_container(config, resolve=False)  # interpolations stay as written
    hydra = values["hydra"]
    for key, allowed in _FIXED.items():
        if (value := _at(hydra, key)) != allowed:
            raise _refused(f"hydra.{key}", value, "leave it out")
    for key, written in _FOLDERS.items():
        if (value := _at(hydra, key)) != written:
            _check_below_results(config, f"hydra.{key}", value)
    for key in ("job_logging", "hydra_logging"):
        if hydra[key] not in _loggings(key):
            raise _refused(f"hydra.{key}", hydra[key], f"choose with hydra/{key}=disabled, or hydra.verbose=true")
    check_name("hydra.job.name", str(hydra["job"]["name"]))
    _check_shell(values)


def _check_shell(values: Mapping[str, Any]) -> None:
    overrides = values["hydra"]["overrides"]
    typed = {override.partition("=")[0].lstrip("+~") for override in (*overrides["hydra"], *overrides["task"])}
    for key in _SHELL:
        value = _at(values, f"launcher.{key}")
        if value and f"launcher.{key}" not in typed and value not in _configured(key):
            raise _refused(f"launcher.{key}", value, "type it on the command line, or put it into configs/launcher/")


def _refused(key: str, value: object, remedy: str) -> ConfigError:
    return ConfigError(
        f"{key}={shown(value)} is refused, because a configuration must not run code or write files; {remedy}"
    )


def _at(values: Any, key: str) -> Any:
    """The value at a dotted key; None if there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _check_below_results(config: DictConfig, key: str, value: object) -> None:
    results = Path(str(config.paths.results)).expanduser().resolve()
    below = key.endswith(".dir") and Path(str(OmegaConf.select(config, key))).resolve().is_relative_to(results)
    if not below:
        raise _refused(key, value, "leave it out; paths.results says where files go")


@functools.cache
def _loggings(key: str) -> list[Any]:
    """Hydra's own choices for ``hydra/job_logging`` or ``hydra/hydra_logging``."""
    folder = files("hydra.conf").joinpath("hydra", key)
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".yaml")]
    return [OmegaConf.to_container(OmegaConf.create(text), resolve=False) for text in texts]


def _configured(key: str) -> list[Any]:
    """The values of a key of ``launcher`` in the files of ``configs/launcher/``."""
    own = [OmegaConf.load(path) for path in sorted((CONFIGS / "launcher").glob("*.yaml"))]
    return [_at(OmegaConf.to_container(config, resolve=False), f"launcher.{key}") for config in own]


# ${clasp.name:${name}} checks a name before Hydra uses it as a folder's
OmegaConf.register_resolver("clasp.name", lambda value: check_name("name", str(value)), replace=True)
guard()


class Redacted(Callback):
    """Redacts ``multirun.yaml`` when a sweep ends, and at its start the one that a killed sweep left behind."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        path = Path(str(config.hydra.sweep.dir)) / "multirun.yaml"
        if path.is_file():
            write_atomically(path, redact(path.read_text(encoding="utf-8")).encode())

    on_multirun_end = on_multirun_start
