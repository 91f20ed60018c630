"""A small hub on the loopback interface: as much of the hub's HTTP protocol as downloading a model takes.

It serves repositories from memory, checks tokens, and misbehaves on request: error codes, answers that come late,
connections that drop, files that end early or hold other bytes than their hash says.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """The files of one repository; ``large`` ones are addressed by their SHA-256, as the hub does for weights."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    token: str = "hf_right"
    revisions: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()


@dataclass
class Fault:
    """What goes wrong with requests whose path holds ``path``: ``times`` times, or always if that is None.

    ``kind`` is a status code, "drop" (close the connection after half of the content), "refuse" (close it without an
    answer), "slow" (answer after ``seconds``), "truncate" (a shorter file than announced by the listing) or
    "corrupt" (other bytes of the right length).
    """

    path: str
    kind: int | str
    times: int | None = None
    method: str | None = None
    seconds: float = 3.0


@dataclass
class HubServer:
    """The server; use it as a context manager. ``log`` holds method and path of each request."""

    port: int
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fetched(self, suffix: str) -> int:
        """How many times a file whose path ends in ``suffix`` was asked for with GET."""
        return sum(method == "GET" and path.endswith(suffix) for method, path in self.log)

    def take_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.path in path and fault.method in (None, method) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        hub.log.append((self.command, path))
        fault = hub.take_fault(self.command, path)
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault is not None and fault.kind == "refuse":
            self._hang_up()
            return
        if fault is not None and isinstance(fault.kind, int):
            # Answers that ask for patience ask for none, so that tests need not wait.
            self._send(fault.kind, b"{}", {"Retry-After": "0"} if fault.kind == 429 else {})
            return
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and not self._has_token(repository)):
            self._send(404 if self._has_any_token() else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        rest = parts[4:] if is_api else parts[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in (*repository.revisions, repository.commit):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        if is_api:
            self._send_listing(name, repository, rest[:1] == ["tree"])
        else:
            self._send_file(repository, "/".join(rest[2:]), fault)

    def _send_listing(self, name: str, repository: Repository, tree: bool) -> None:
        if tree:
            entries = []
            for path, content in repository.files.items():
                entry = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
                if _is_large(path):
                    entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
                entries.append(entry)
            body = json.dumps(entries)
        else:
            siblings = [{"rfilename": path} for path in repository.files]
            body = json.dumps(
                {
                    "id": name,
                    "modelId": name,
                    "sha": repository.commit,
                    "private": repository.private,
                    "gated": "auto" if repository.gated else False,
                    "siblings": siblings,
                    "tags": [],
                    "downloads": 0,
                }
            )
        self._send(200, body.encode(), {"Content-Type": "application/json"})

    def _send_file(self, repository: Repository, path: str, fault: Fault | None) -> None:
        common = {"X-Repo-Commit": repository.commit}
        if repository.gated and not self._has_token(repository):
            self._send(401 if not self._has_any_token() else 403, b"{}", {**common, "X-Error-Code": "GatedRepo"})
            return
        content = repository.files.get(path)
        if content is None:
            self._send(404, b"{}", {**common, "X-Error-Code": "EntryNotFound"})
            return
        headers = {**common, "ETag": f'"{_git_hash(content)}"', "Accept-Ranges": "bytes"}
        if _is_large(path):
            headers["X-Linked-Etag"] = f'"{_sha256(content)}"'
            headers["X-Linked-Size"] = str(len(content))
        if self.command == "GET" and fault is not None:
            if fault.kind == "truncate":
                content = content[: len(content) // 2]
            elif fault.kind == "corrupt":
                # From the end, so that the file's own header still reads well and only the hash tells.
                content = content[:-1] + bytes([content[-1] ^ 0xFF])
        start = self._range_start()
        status = 200
        if start:
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        if self.command == "GET" and fault is not None and fault.kind == "drop":
            self._send(status, content[: len(content) // 2], headers, announce=len(content))
            self._hang_up()
            return
        self._send(status, content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str], announce: int | None = None) -> None:
        try:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body) if announce is None else announce))
            # A connection that is kept would outlive the server that a test started.
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # the client lost patience, as some tests want
            self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def _range_start(self) -> int:
        value = self.headers.get("Range", "")
        return int(value.removeprefix("bytes=").split("-")[0]) if value.startswith("bytes=") else 0

    def _has_any_token(self) -> bool:
        return bool(self.headers.get("Authorization"))

    def _has_token(self, repository: Repository) -> bool:
        return self.headers.get("Authorization") == f"Bearer {repository.token}"


def _is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
