"""``make prefetch`` against a hub on this machine; then a run without any hub, and what it says of missing files."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub
import pytest
from command_line import composed

from clasp.backbones.hub import BackboneUnavailable
from clasp.config import RunConfig, load_config
from clasp.launch import download, prefetch
from clasp.launch.prefetch import check_prefetched
from clasp.methods.clasp.router import KeywordRouter
from clasp.strict import ConfigError
from clasp.tiny import directory

pytestmark = pytest.mark.xdist_group("prefetch")  # one hub and one cache for all

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SOURCE = "tests/tiny-llava"
RUN = [f"backbone.source={SOURCE}", "backbone.name=mine", "benchmarks.names=[pope]", "tokens=64", "limit=2"]
RUN += ["method=random", "router=keyword"]
OTHERS = {"README.md": b"hello", "pytorch_model.bin": b"a pickle", "modeling.py": b"code"}
"""Files of a repository that nobody needs."""
FETCH_TWICE = """
import runpy, sys
from pathlib import Path

def fetch():
    try: runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exited: print("exit code", exited.code)

home = Path(sys.argv.pop())
fetch()
for path in (*home.glob("hub/models--*/snapshots/*/tokenizer.json"), *home.glob("datasets/*/*/*/*/*.arrow")):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
print("=== altered")
fetch()
"""


def pope() -> bytes:
    """Four questions as a parquet file."""
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    rows: list[dict[str, Any]] = [
        {"question_id": str(i), "question": "Is there a dog?", "answer": ["no", "yes"][i % 2]} for i in range(4)
    ]
    features = Features({**{name: Value("string") for name in rows[0]}, "image": Image()})
    rows = [row | {"image": Picture.new("RGB", (32, 32), (60 * i, 0, 0))} for i, row in enumerate(rows)]
    Dataset.from_list(rows, features=features).to_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def process(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LMMS_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**inherited, "HF_HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def model() -> dict[str, bytes]:
    """Files of the tiny model."""
    return {path.name: path.read_bytes() for path in directory().iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder where everything was fetched, partly altered, and fetched again; and the output of both calls."""
    folder = tmp_path_factory.mktemp("prefetch")
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    data = {"README.md": card, "data/test-00000-of-00001.parquet": pope()}
    with hub.serving({f"models/{SOURCE}": model() | OTHERS, "datasets/lmms-lab-encoder/POPE": data}) as address:
        environment = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_not_a_token", "HF_HUB_DISABLE_XET": "1"}
        code = f"import sys; sys.argv = [{str(SCRIPTS / 'prefetch.py')!r}, *sys.argv[1:]]\n{FETCH_TWICE}"
        done = process(folder, environment, "-c", code, *RUN, str(folder / "home"))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_fetched_files_are_checked_and_altered_ones_fetched_again(fetched: tuple[Path, str]) -> None:
    folder, logged = fetched
    first, again = logged.split("=== altered")
    assert f"backbone mine: {SOURCE} at " in first
    assert "7 files, 18 MiB" in first
    assert "benchmark pope: 1 file" in first
    assert first.count("all that its 1 cells need is here\nexit code 0") == again.count("exit code 0") == 1
    assert "tokenizer.json in the cache is not the hub's; fetching it again" in again
    assert "pope-test.arrow is altered; making it again" in again
    assert "when it was last fetched" not in again, "the commit is the same"
    manifest = prefetch.read(folder / "data" / "prefetch" / "mine.json")
    assert manifest is not None
    assert manifest.commit == hub.commit(model() | OTHERS)
    assert {path.name for path in folder.glob("home/hub/models--*/snapshots/*/*")} == set(model()), "no pickle, no code"


def test_a_run_without_network_finds_everything(fetched: tuple[Path, str]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = process(fetched[0], offline, str(SCRIPTS / "run.py"), *RUN, "wandb.enabled=false")
    assert done.returncode == 0, done.stderr
    assert "1 cells computed, 0 were there already, 0 failed" in done.stdout


def configuration(*overrides: str) -> RunConfig:
    return load_config(composed(*overrides))


@pytest.fixture
def config(fetched: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The configuration over a copy of what was fetched."""
    for name in ("home", "data"):
        shutil.copytree(fetched[0] / name, tmp_path / name, symlinks=True)
    caches = {"model": tmp_path / "home" / "hub", "data": tmp_path / "home" / "datasets"}
    monkeypatch.setattr(prefetch, "cache", caches.__getitem__)
    return configuration(*RUN, f"paths.data={tmp_path / 'data'}")


def files(kind: str, pattern: str) -> Path:
    (found,) = prefetch.cache(kind).glob(pattern)
    return found


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("model", "models--*/snapshots/*/model.safetensors"), ("data", "*/*/*/*/pope-test.arrow")],
)
def test_a_missing_or_altered_file_is_one_sentence(kind: str, pattern: str, config: RunConfig) -> None:
    path = files(kind, pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for fault, payload in (("altered", bytes(content)), ("altered", b""), ("missing", None)):
        path.unlink() if payload is None else path.write_bytes(payload)
        words = rf"{path.name} .*is {fault}; where the hub can be reached, run: "
        with pytest.raises(ConfigError, match=words) as caught:
            check_prefetched(config)
        assert "clasp-eval prefetch backbone=mine 'benchmarks.names=[pope]' paths.data=" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [("mine", "/etc"), ("mine", "../../mine"), ('"files": {', '"files": {"x": 1, '), ("{", "[" * 99)]
)
def test_an_unusable_manifest_counts_as_not_fetched(change: tuple[str, str], config: RunConfig) -> None:
    path = prefetch.model_path(config)
    text = path.read_text().replace("models--tests--tiny-llava", "mine")
    assert prefetch.read(path) is not None
    path.write_text(text.replace(*change))
    assert prefetch.read(path) is None


def test_what_is_not_here_as_it_is_asked_for_is_one_sentence(config: RunConfig) -> None:
    tokenizer = files("model", "models--*/snapshots/*/tokenizer.json")
    tokenizer.write_bytes(tokenizer.read_bytes())
    check_prefetched(config, f"hub:{SOURCE}@{prefetch.commit(config)}")
    with pytest.raises(ConfigError, match="has moved on at the hub"):
        check_prefetched(config, f"hub:{SOURCE}@{'0' * 40}")
    pinned = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, revision="1" * 40))
    with pytest.raises(ConfigError, match=f"and {'1' * 40} is asked for"):
        check_prefetched(pinned)
    other = dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, names=("gqa",)))
    with pytest.raises(ConfigError, match="the data set of benchmark gqa has not been fetched"):
        check_prefetched(other)
    folder = files("data", "*/*/*/*/pope-test.arrow").parent
    newer = folder.with_name("f" * 40)
    newer.mkdir()
    os.utime(newer, (folder.stat().st_mtime + 10,) * 2)
    with pytest.raises(ConfigError, match="older than another version that was loaded since"):
        check_prefetched(config)
    prefetch.model_path(config).write_text("{}")
    with pytest.raises(ConfigError, match=f"backbone mine \\({SOURCE}\\) has not been fetched"):
        check_prefetched(config)


def test_the_tiny_backbone_needs_no_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration("tokens=64", "benchmarks.names=[tiny_textvqa]")
    check_prefetched(config)
    logged: list[str] = []
    monkeypatch.setattr("clasp.methods.clasp.router.make_router", lambda name: KeywordRouter())
    download.fetch(config, logged.append)
    assert logged == ["backbone tiny: on this machine", "router: its sentence encoder is here"]


def test_without_network_fetched_files_are_checked(config: RunConfig) -> None:
    """The tests' own process is offline."""
    config = dataclasses.replace(config, benchmarks=dataclasses.replace(config.benchmarks, names=("tiny_textvqa",)))
    logged: list[str] = []
    download.fetch(config, logged.append)
    assert logged[0].startswith("backbone mine: the hub cannot be reached; 7 files, 18 MiB here, unaltered")
    files("model", "models--*/snapshots/*/config.json").unlink()
    with pytest.raises(BackboneUnavailable, match=r"config\.json is missing, and the hub cannot be reached"):
        download.fetch(config, logged.append)
    prefetch.model_path(config).unlink()
    with pytest.raises(BackboneUnavailable, match=f"'{SOURCE}' was not fetched before; run this on"):
        download.fetch(config, logged.append)
