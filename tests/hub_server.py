"""A model hub on this machine: the part of the protocol that a download uses, for tests without a network.

Weights are redirected to a second port, as the hub redirects to its CDN, small files to a relative path of
the hub itself.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

WEIGHTS = ".safetensors"


class Request(NamedTuple):
    """What came in: `authorization` and `range` as the client sent them, "" where it sent none; `status` as
    answered."""

    method: str
    path: str
    status: int
    authorization: str
    range: str
    cdn: bool


@dataclass
class Model:
    """Files by commit, and where main points. `token` is asked for at the files (`gated`) or at everything
    (`private`)."""

    commits: dict[str, dict[str, bytes]]
    main: str
    gated: bool = False
    private: bool = False
    token: str = "right"


@dataclass
class HubServer:
    """A context manager. By file name: `cut` breaks the connection once after so many bytes, `stall` sends
    so many and waits, `damage` flips a bit of the last byte, `fail` answers 503 so many times. `xet` offers
    Xet storage beside the CDN.
    """

    models: dict[str, Model]
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    damage: set[str] = field(default_factory=set)
    fail: dict[str, int] = field(default_factory=dict)
    xet: bool = True
    requests: list[Request] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> HubServer:
        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self, cdn)) for cdn in (False, True)
        ]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        hub, cdn = self._servers
        self.endpoint = f"http://127.0.0.1:{hub.server_port}"
        self.cdn = (
            f"http://localhost:{cdn.server_port}"  # another host by name: clients keep their token from it
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def files_asked_for(self) -> set[str]:
        return {request.path.rsplit("/", 1)[1] for request in self.requests if "/resolve/" in request.path}

    def ranges(self) -> list[str]:
        return [request.range for request in self.requests if request.method == "GET" and request.cdn]


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One connection; routes are those of huggingface.co."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: HubServer, cdn: bool, *args: object) -> None:
        self.hub, self.is_cdn = hub, cdn
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """Silent: tests read `HubServer.requests`."""

    def do_HEAD(self) -> None:  # the name that http.server calls
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"", *, name: str = "") -> None:
        """Sends head and body; `name` is the file whose `cut` or `stall` applies."""
        token, part = (self.headers.get(header, "") for header in ("Authorization", "Range"))
        self.hub.requests.append(Request(self.command, self.path, status, token, part, self.is_cdn))
        self.send_response(status)
        for header, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.cut.pop(name, self.hub.stall.get(name))
        stalls = limit is not None and name in self.hub.stall
        self.wfile.write(body[:limit])
        if limit is not None and limit < len(body):
            self.close_connection = True
            if stalls:
                self.wfile.flush()
                self.hub.stalled.set()
                self.hub.closing.wait(20)

    def error(self, status: int, code: str, message: str) -> None:
        self.reply(
            status,
            {"X-Error-Code": code, "X-Error-Message": message},
            json.dumps({"error": message}).encode(),
        )

    def answer(self) -> None:
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if self.is_cdn:
            self.file(*self.find(*parts), linked=False)
            return
        api = parts[:2] == ["api", "models"]
        redirected = parts[:3] == ["api", "resolve-cache", "models"]
        model_id = "/".join(parts[2:4] if api else parts[3:5] if redirected else parts[:2])
        model = self.hub.models.get(model_id)
        allowed = model is not None and self.headers.get("Authorization") == f"Bearer {model.token}"
        if model is None or (model.private and not allowed):
            self.error(
                404 if self.headers.get("Authorization") else 401, "RepoNotFound", "Repository not found"
            )
        elif api:
            self.info(
                model_id, model, parts[5] if parts[4:5] == ["revision"] else "main", parse_qs(address.query)
            )
        elif model.gated and not allowed:
            refused = 403 if self.headers.get("Authorization") else 401
            self.error(refused, "GatedRepo", f"Access to model {model_id} is restricted.")
        elif redirected:
            self.file(*self.find(model_id, *parts[5:]), linked=False)
        else:
            self.file(*self.find(model_id, *parts[3:]), linked=True)

    def find(self, *parts: str) -> tuple[str, str, str, bytes | None]:
        """(model id, commit, file name, content) of org/name/commit/file or "org/name"/commit/file."""
        *owner, commit, name = parts
        model_id = "/".join(owner)
        return model_id, commit, name, self.hub.models[model_id].commits.get(commit, {}).get(name)

    def info(self, model_id: str, model: Model, ref: str, query: dict[str, list[str]]) -> None:
        commit = model.main if ref == "main" else ref
        if commit not in model.commits:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {ref}")
            return
        siblings: list[dict[str, object]] = []
        for name, content in model.commits[commit].items():
            entry: dict[str, object] = {"rfilename": name}
            if query.get("blobs", ["false"])[0].lower() == "true":
                entry |= {"size": len(content), "blobId": git_id(content)}
                if name.endswith(WEIGHTS):
                    entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        body = {
            "_id": "0",
            "id": model_id,
            "modelId": model_id,
            "sha": commit,
            "private": model.private,
            "siblings": siblings,
        }
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def file(self, model_id: str, commit: str, name: str, content: bytes | None, *, linked: bool) -> None:
        """A file's own address (`linked`) redirects; the address it redirects to has the bytes."""
        if content is None:
            self.error(404, "EntryNotFound", "Entry not found")
            return
        if self.hub.fail.get(name, 0) > 0:
            self.hub.fail[name] -= 1
            self.error(503, "", "overloaded")
            return
        large = name.endswith(WEIGHTS)
        etag = sha256(content) if large else git_id(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if linked:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
            path = f"{model_id}/{commit}/{name}"
            if large:
                if self.hub.xet:  # a client that took the offer up would ask for the refresh route
                    headers |= {"X-Xet-Hash": etag, "X-Xet-Refresh-Route": "/xet/token"}
                self.reply(302, headers | {"Location": f"{self.hub.cdn}/{path}"})
            else:
                self.reply(307, headers | {"Location": f"/api/resolve-cache/models/{path}"})
            return
        if name in self.hub.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first, status = 0, 200
        if asked := self.headers.get("Range", ""):
            first = int(asked.removeprefix("bytes=").split("-")[0])
            if first >= len(content):
                self.reply(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            status = 206
        body = content[first:]
        self.reply(status, headers | {"Content-Length": str(len(body))}, body, name=name)
