"""A package index on this machine (the simple API), and wheels made for it, for tests without a network."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def wheel_of(package: str, version: str, files: dict[str, bytes]) -> bytes:
    """A wheel with these files, and one that it depends on, which nobody has."""
    info = f"{package.replace('-', '_')}-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nRequires-Dist: nobody-has-this\n"
    )
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return stream.getvalue()


@dataclass
class IndexServer:
    """A context manager; `wheels` by file name. While `held` is set, half of a wheel is sent, `half_sent` is
    set, and the rest waits. The first `broken` requests get no answer."""

    wheels: dict[str, bytes]
    held: bool = False
    broken: int = 0
    requests: list[str] = field(default_factory=list)
    half_sent: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> IndexServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fetched(self) -> int:
        """How often a wheel was asked for."""
        return sum(path.startswith("/files/") for path in self.requests)


class Handler(BaseHTTPRequestHandler):
    """One connection: /simple/PACKAGE/ lists its wheels, /files/NAME has one."""

    def __init__(self, index: IndexServer, *args: object) -> None:
        self.index = index
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """Silent: tests read `IndexServer.requests`."""

    def do_GET(self) -> None:
        self.index.requests.append(self.path)
        if self.index.broken:
            self.index.broken -= 1
            self.close_connection = True
            return
        kind, name = self.path.strip("/").split("/", 1)
        wheels = self.index.wheels
        if kind == "files" and name in wheels:
            self.send(wheels[name], "application/zip", halves=self.index.held)
            return
        links = [f"<a href='/files/{w}'>{w}</a>" for w in wheels if w.startswith(name.replace("-", "_"))]
        if kind == "simple" and links:
            self.send(f"<html><body>{' '.join(links)}</body></html>".encode(), "text/html")
        else:
            self.send_error(404)

    def send(self, body: bytes, kind: str, halves: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2 if halves else len(body)
        self.wfile.write(body[:half])
        self.wfile.flush()
        if halves:
            self.index.half_sent.set()
            self.index.released.wait(60)
            try:
                self.wfile.write(body[half:])
            except OSError:
                self.close_connection = True  # the client has been killed meanwhile


def settings(url: str) -> dict[str, str]:
    """Environment in which pip asks this index alone, once, whatever this machine's user has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    local = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url, "NO_PROXY": "127.0.0.1"}
    return kept | local | {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "5"}
