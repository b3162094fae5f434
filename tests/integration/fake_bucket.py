# SPDX-License-Identifier: Apache-2.0
"""Cloud Storage in a folder of this machine: what etils.epath and tensorstore ask of it, and no more.

epath reaches it as an fsspec file system under gs://, tensorstore over HTTP (its JSON interface). Like a
bucket it cannot append and refuses what is not there; unlike one it keeps empty folders.
"""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class Files(DirFileSystem):
    """gs://BUCKET/NAME as $FAKE_BUCKETS/BUCKET/NAME."""

    protocol = ("gs", "gcs")
    cachable = False

    def __init__(self, finalize_on_close: bool = True) -> None:
        root = os.environ["FAKE_BUCKETS"]
        super().__init__(path=root, fs=LocalFileSystem(auto_mkdir=True))

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        bucket = self._strip_protocol(path).split("/", 1)[0]
        if not (Path(self.path) / bucket).is_dir():
            raise FileNotFoundError(f"no bucket {bucket}")
        if "a" in mode:
            raise NotImplementedError("a bucket cannot append")
        return super().open(path, mode, **options)


class _Objects(BaseHTTPRequestHandler):
    """The JSON interface: read, write, delete and list objects."""

    protocol_version = "HTTP/1.1"

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _parts(self) -> tuple[Path, str, dict[str, str]]:
        """(folder of the bucket, name of the object or '', parameters)."""
        split = urlsplit(self.path)
        bucket, _, name = split.path.partition("/b/")[2].partition("/o")
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        folder = Path(os.environ["FAKE_BUCKETS"]) / unquote(bucket)
        return folder, unquote(name.removeprefix("/")), query

    def _facts(self, folder: Path, path: Path) -> dict[str, str]:
        stat = path.stat()
        return {
            "name": path.relative_to(folder).as_posix(),
            "size": str(stat.st_size),
            "generation": str(stat.st_mtime_ns),
        }

    def do_GET(self) -> None:
        folder, name, query = self._parts()
        if not name:
            names = sorted(path for path in folder.rglob("*") if path.is_file())
            items = [self._facts(folder, path) for path in names]
            low, high = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            items = [item for item in items if low <= item["name"] < high]
            self._answer(200, json.dumps({"items": items}).encode(), Content_Type="text/json")
            return
        path = folder / name
        if not path.is_file():
            self._answer(404)
            return
        body, generation = path.read_bytes(), self._facts(folder, path)["generation"]
        if query.get("ifGenerationNotMatch") == generation:
            self._answer(304)
            return
        total = len(body)
        if "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, total - int(last))
            end = min(int(last) + 1, total) if first and last else total
            span = f"bytes {begin}-{end - 1}/{total}"
            self._answer(206, body[begin:end], Content_Range=span, x_goog_generation=generation)
        else:
            self._answer(200, body, x_goog_generation=generation)

    def do_POST(self) -> None:
        folder, _, query = self._parts()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = folder / query["name"]
        wanted = query.get("ifGenerationMatch")
        found = self._facts(folder, path)["generation"] if path.is_file() else "0"
        if not folder.is_dir() or (wanted is not None and wanted != found):
            self._answer(404 if not folder.is_dir() else 412)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self._answer(200, json.dumps(self._facts(folder, path)).encode(), Content_Type="text/json")

    def do_DELETE(self) -> None:
        folder, name, _ = self._parts()
        (folder / name).unlink(missing_ok=True)
        self._answer(204)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


def start(root: Path) -> None:
    """Serves the folders in `root` as buckets to this process, until it ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Objects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["FAKE_BUCKETS"] = str(root)
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "nobody"
    for name in Files.protocol:
        fsspec.register_implementation(name, Files, clobber=True)
