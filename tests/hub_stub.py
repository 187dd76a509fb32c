"""A loopback stand-in for the Hub: the parts of its HTTP API that pushing and loading a model use.

Nothing of the client is replaced: huggingface_hub talks to it over HTTP when `HF_ENDPOINT` names its address
before the client is imported. Repositories live in memory.
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
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: dict[str, int] = field(default_factory=dict)
    private: bool = False

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"]

    def sha(self, branch: str) -> str:
        return hashlib.sha1(f"{branch} {self.commits.get(branch, 0)}".encode()).hexdigest()

    def branch(self, revision: str) -> str | None:
        """The branch that a name or a commit's hash means."""
        return next((name for name in self.branches if revision in (name, self.sha(name))), None)


class HubStub:
    """`with HubStub() as hub: ... hub.environment(cache) ...`

    Attributes:
        tokens: token -> "write" or "read"; the user of both is `stub`, who may write under `stub/` alone.
        uploads: large files that were received, by hash, repeats included.
        break_after: large files after which every connection is dropped; None for never.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.tokens = {"hf_stub": "write", "hf_reader": "read"}
        self.uploads: list[str] = []
        self.break_after: int | None = None
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

    def environment(self, cache: object, token: str | None = "hf_stub") -> dict[str, str]:
        """What a process that shall meet this Hub needs in its environment."""
        environment = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": token,
            "HF_HOME": str(cache),
        }
        return {name: value for name, value in environment.items() if value is not None}


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

    def _role(self) -> str | None:
        """What the request's token may do; None without one, "unknown" with one that nobody has."""
        header = self.headers.get("Authorization") or ""
        return self.hub.tokens.get(header.removeprefix("Bearer "), "unknown") if header else None

    def _refused(self, name: str) -> bool:
        """Whether a request that writes to `name` was answered with a refusal."""
        role = self._role()
        if role == "write" and name.startswith("stub/"):
            return False
        status = 401 if role in (None, "unknown") else 403
        self._send_json({"error": "Invalid credentials" if status == 401 else "Forbidden"}, status)
        return True

    def _readable(self, name: str) -> Repository | None:
        """The repository, unless it is not there, or private and the token no good: the Hub hides which."""
        repository = self.hub.repositories.get(name)
        if repository is not None and repository.private and self._role() not in ("read", "write"):
            return None
        return repository

    def _dropped(self) -> bool:
        """Whether the connection was closed without an answer."""
        limit = self.hub.break_after
        if limit is None or len(self.hub.uploads) < limit:
            return False
        self.close_connection = True
        self.connection.close()
        return True

    # -- requests ------------------------------------------------------------------------------------------
    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        if self._dropped():
            return None
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            self._send_json({"type": "user", "name": "stub", "orgs": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
            repository = self._readable(match[1])
            if repository is None:
                return self._not_found("RepoNotFound")
            if (branch := repository.branch(match[2])) is None:
                return self._not_found("RevisionNotFound")
            files = sorted(repository.branches[branch].items())
            self._send_json([self._entry(name, data) for name, data in files])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repository = self._readable(match[1])
            if repository is None:
                return self._not_found("RepoNotFound")
            if (branch := repository.branch(match[2] or "main")) is None:
                return self._not_found("RevisionNotFound")
            siblings = [{"rfilename": name} for name in sorted(repository.branches[branch])]
            self._send_json(
                {"id": match[1], "modelId": match[1], "sha": repository.sha(branch), "siblings": siblings,
                 "private": repository.private, "tags": []}
            )  # fmt: skip
        else:
            self._resolve()

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if self._dropped():
            return None
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'stub'}/{asked['name']}"
            if self._refused(name):
                return None
            new = name not in self.hub.repositories
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repositories.setdefault(name, Repository(private=bool(private)))
            answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
            self._send_json(answer, 200 if new else 409)
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            repository = self.hub.repositories[match[1]]
            new = match[2] not in repository.branches
            repository.branches.setdefault(match[2], dict(repository.files))
            self._send_json({}, 200 if new else 409)
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
            files = [
                {"path": f["path"], "uploadMode": _upload_mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._send_json({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            self._send_json(
                {"transfer": "basic", "objects": [self._lfs(o) for o in json.loads(body)["objects"]]}
            )
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            if self._refused(match[1]):
                return None
            repository, branch = self.hub.repositories[match[1]], match[2]
            self._commit(repository.branches[branch], body)
            repository.commits[branch] = repository.commits.get(branch, 0) + 1
            sha = repository.sha(branch)
            self._send_json({"commitUrl": f"{self.hub.url}/{match[1]}/commit/{sha}", "commitOid": sha})
        else:
            self._not_found("EntryNotFound")

    def do_PUT(self) -> None:
        data = self._body()
        if self._dropped():
            return
        digest = hashlib.sha256(data).hexdigest()
        self.hub.blobs[digest] = data
        self.hub.uploads.append(digest)
        self._send(b"")

    def _lfs(self, wanted: dict) -> dict:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.hub.blobs:
            answer["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}
        return answer

    def _commit(self, files: dict[str, bytes], body: bytes) -> None:
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)

    def _entry(self, name: str, data: bytes) -> dict:
        entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if _upload_mode(name) == "lfs":
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
        return entry

    def _resolve(self) -> None:
        if self._dropped():
            return None
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", urlsplit(self.path).path)
        repository = self._readable(match[1]) if match else None
        if repository is None:
            return self._not_found("RepoNotFound")
        if (branch := repository.branch(unquote(match[2]))) is None:
            return self._not_found("RevisionNotFound")
        name, files = unquote(match[3]), repository.branches[branch]
        if name not in files:
            return self._not_found("EntryNotFound")
        data = files[name]
        self._send(
            data,
            headers={
                "X-Repo-Commit": repository.sha(branch),
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
            },
        )


def _upload_mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"
