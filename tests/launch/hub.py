"""A local server with the parts of the Hugging Face hub's protocol that prefetching uses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Repositories = dict[str, dict[str, bytes]]
"""``models/<owner>/<name>`` or ``datasets/<owner>/<name>`` -> its files by name; change them and the commit changes."""


@contextmanager
def serving(repositories: Repositories) -> Iterator[str]:
    """Starts a hub with these repositories; yields its address."""

    class Handler(_Handler):
        held = repositories

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def commit(files: Mapping[str, bytes]) -> str:
    """A commit hash (40 hex digits) of this content."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, content in sorted(files.items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    held: Repositories
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self._answer(body.get("paths"))

    def _answer(self, paths: list[str] | None = None) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        listed = re.fullmatch(
            r"api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+))?(/.*)?", path
        )
        stored = re.fullmatch(r"(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if listed and self._known(listed[1], listed[3]):
            files = self.held[listed[1]]
            if listed[2] == "paths-info":
                self._json([_entry(name, files[name]) for name in paths or () if name in files])
            elif listed[2] == "tree":
                self._json(_tree(files, (listed[4] or "").strip("/"), "recursive=True" in self.path))
            else:
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": listed[1].partition("/")[2], "sha": commit(files), "siblings": siblings})
        elif stored and self._known(name := (stored[1] or "models/") + stored[2], stored[3]):
            self._file(self.held[name], stored[4])
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _known(self, name: str, revision: str | None) -> bool:
        return name in self.held and revision in (None, "main", commit(self.held[name]))

    def _file(self, files: Mapping[str, bytes], name: str) -> None:
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(files)})
            return
        content, entry = files[name], _entry(name, files[name])
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit(files)})

    def _json(self, values: Any) -> None:
        self._send(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Entries below a folder; of deeper ones only their folders, unless recursive."""
    prefix = f"{folder}/" if folder else ""
    inside = [name for name in files if name.startswith(prefix)]
    deeper = {name[len(prefix) :].partition("/")[0] for name in inside if "/" in name[len(prefix) :]}
    folders = [{"type": "directory", "path": prefix + name, "size": 0, "oid": "0" * 40} for name in sorted(deeper)]
    return folders + [_entry(name, files[name]) for name in inside if recursive or "/" not in name[len(prefix) :]]


def _entry(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith((".safetensors", ".parquet", ".bin")):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
