"""Checks the pinned packages for known vulnerabilities, or lists their ages if no vulnerability service is reachable.

    python scripts/audit.py [lock=requirements.lock] [output=results/reference/audit.md]

If pip-audit is installed and its vulnerability service is reachable, pip-audit runs: exit status 0 if no vulnerability
is known, 1 otherwise. Else pip's configured package index supplies the upload date of each pinned version, and the list
states that no audit was made: exit status 0. Invalid input: 2.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clasp.arguments import run
from clasp.files import write_atomically
from clasp.strict import ConfigError

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;#\\]+)")
JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Arguments:
    """The lock file, and the output file of the list of ages."""

    lock: Path = Path("requirements.lock")
    output: Path = Path("results/reference/audit.md")


def pins(lock: Path) -> list[tuple[str, str]]:
    """Name and version of every package pinned in the lock file."""
    found = (PIN.match(line) for line in lock.read_text(encoding="utf-8").splitlines())
    return [(match[1], match[2]) for match in found if match]


def audited(lock: Path) -> int | None:
    """Exit status of pip-audit; None if it is not installed or could not look up any package."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    # without its service, pip-audit reports every package as "not found" and none as vulnerable
    looked_up = [package for package in packages if "vulns" in package]
    if not looked_up:
        return None
    bad = [package for package in looked_up if package["vulns"]]
    for package in bad:
        known = ", ".join(vulnerability["id"] for vulnerability in package["vulns"])
        print(f"{package['name']} {package['version']}: {known}")
    print(f"{len(looked_up)} of {len(packages)} packages audited, {len(bad)} with known vulnerabilities")
    return 1 if bad else 0


def uploads(packages: list[tuple[str, str]]) -> list[datetime | None]:
    """First upload time of each version in pip's configured index (PEP 700); None if the index does not state it."""
    from pip._internal.commands import create_command

    command: Any = create_command("download")  # reads pip's configuration: index, certificates, credentials
    options, _ = command.parse_args(["."])
    with command._build_session(options) as session:
        return [_uploaded(session, options.index_url.rstrip("/"), *package) for package in packages]


def _uploaded(session: Any, index: str, name: str, version: str) -> datetime | None:
    parts = re.split(r"[-_.]+", name.lower())
    answer = session.get(f"{index}/{'-'.join(parts)}/", headers={"Accept": JSON}, timeout=60)
    if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
        return None
    stem = "[-_.]".join(map(re.escape, parts))
    wanted = re.compile(rf"{stem}-{re.escape(version)}(-|\.tar|\.zip)", re.IGNORECASE)
    times = [file.get("upload-time") for file in answer.json()["files"] if wanted.match(file["filename"])]
    return min((datetime.fromisoformat(time) for time in times if time), default=None)


def table(found: list[tuple[str, str, datetime | None]], today: datetime) -> str:
    """The list in Markdown, oldest version first."""
    lines = [
        "# Pinned packages and their ages",
        "",
        f"No audit was made: no vulnerability service could be asked. Made {today:%Y-%m-%d} from the package index's "
        "upload dates; days are since the version's first upload.",
        "",
        "| package | version | uploaded | days |",
        "|---|---|---|---:|",
    ]
    for name, version, at in sorted(found, key=lambda one: (one[2] is None, one[2] or today)):
        when, days = (f"{at:%Y-%m-%d}", str((today - at).days)) if at else ("not known", "")
        lines.append(f"| {name} | {version} | {when} | {days} |")
    return "\n".join(lines) + "\n"


def audit(arguments: Arguments) -> int:
    """Runs the audit or writes the list; returns the exit code."""
    if not arguments.lock.is_file():
        raise ConfigError(f"{arguments.lock} is not here; give the lock file with lock=")
    status = audited(arguments.lock)
    if status is not None:
        return status
    packages = pins(arguments.lock)
    times = uploads(packages)
    found = [(name, version, at) for (name, version), at in zip(packages, times, strict=True)]
    write_atomically(arguments.output, table(found, datetime.now(UTC)).encode())
    known = sum(at is not None for at in times)
    print("no audit was made: no vulnerability service could be asked")
    print(f"wrote {arguments.output}: {known} of {len(found)} ages known")
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, audit, sys.argv[1:], str(__doc__)))
