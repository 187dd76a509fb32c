"""A loopback stand-in for the Hub: the parts of its HTTP API that pushing and loading a model use.

Nothing of the client is replaced: huggingface_hub talks to it over HTTP when `HF_ENDPOINT` names its address
before the client is imported. Repositories live in memory; each has one branch, `main`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class HubStub:
    """`with HubStub() as hub: ... hub.environment(cache) ...`"""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        stub = self

        class Handler(_Handler):
            hub = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubStub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: object) -> dict[str, str]:
        """What a process that shall meet this Hub needs in its environment."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_stub",
            "HF_HOME": str(cache),
        }


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    # -- answers -------------------------------------------------------------------------------------------
    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _not_found(self, code: str) -> None:
        self._send_json({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # -- requests ------------------------------------------------------------------------------------------
    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self._send_json({"type": "user", "name": "stub", "orgs": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            repository = self.hub.repositories.get(match[1])
            if repository is None:
                return self._not_found("RepoNotFound")
            self._send_json([self._entry(name, data) for name, data in sorted(repository.files.items())])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            repository = self.hub.repositories.get(match[1])
            if repository is None:
                return self._not_found("RepoNotFound")
            siblings = [{"rfilename": name} for name in sorted(repository.files)]
            self._send_json(
                {"id": match[1], "modelId": match[1], "sha": repository.sha, "siblings": siblings, "tags": []}
            )
        else:
            self._resolve()

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'stub'}/{asked['name']}"
            self.hub.repositories.setdefault(name, Repository())
            self._send_json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": _upload_mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._send_json({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            self._send_json(
                {"transfer": "basic", "objects": [self._lfs(o) for o in json.loads(body)["objects"]]}
            )
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(self.hub.repositories[match[1]], body)
            url = f"{self.hub.url}/{match[1]}/commit/{self.hub.repositories[match[1]].sha}"
            self._send_json({"commitUrl": url, "commitOid": self.hub.repositories[match[1]].sha})
        else:
            self._not_found("EntryNotFound")

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.blobs[hashlib.sha256(data).hexdigest()] = data
        self._send(b"")

    def _lfs(self, wanted: dict) -> dict:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.hub.blobs:
            answer["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}
        return answer

    def _commit(self, repository: Repository, body: bytes) -> None:
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                repository.files.pop(value["path"], None)
        repository.commits += 1

    def _entry(self, name: str, data: bytes) -> dict:
        entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if _upload_mode(name) == "lfs":
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
        return entry

    def _resolve(self) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", unquote(urlsplit(self.path).path))
        repository = self.hub.repositories.get(match[1]) if match else None
        if repository is None:
            return self._not_found("RepoNotFound")
        if match[2] not in repository.files:
            return self._not_found("EntryNotFound")
        data = repository.files[match[2]]
        self._send(
            data,
            headers={
                "X-Repo-Commit": repository.sha,
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            },
        )


def _upload_mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"
