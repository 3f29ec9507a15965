"""A hub mirror: serves model repositories from directories, over the endpoints and with the answers of the real hub.

Made for `huggingface_hub` with `endpoint=`: metadata, trees, files with ETag, X-Repo-Commit, X-Linked-*, ranges, and
large files by a redirect to another path, as the real one sends them to its CDN. It records what it was asked, and
fails as told.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LFS = (".safetensors", ".parquet", ".bin", ".pth", ".pt", ".model", ".gguf")
_PIECE_BYTES = 64 * 1024
_NAME = r"(?P<name>[^/]+/[^/]+)"
_INFO = re.compile(rf"/api/(?P<kind>models|datasets)/{_NAME}(?:/revision/(?P<revision>.+))?")
_TREE = re.compile(rf"/api/(?P<kind>models|datasets)/{_NAME}/tree/(?P<revision>[^/]+)(?:/.*)?")
_FILE = re.compile(rf"(?:/(?P<kind>datasets))?/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_CREATE = re.compile(r"/api/repos/create")
_YAML = re.compile(r"/api/validate-yaml")
_PREUPLOAD = re.compile(rf"/api/(?P<kind>models|datasets)/{_NAME}/preupload/(?P<revision>[^/]+)")
_BATCH = re.compile(rf"(?:/(?P<kind>datasets))?/{_NAME}\.git/info/lfs/objects/batch")
_UPLOAD = re.compile(rf"/upload/{_NAME}/(?P<digest>[0-9a-f]{{64}})")
_COMMIT = re.compile(rf"/api/(?P<kind>models|datasets)/{_NAME}/commit/(?P<revision>[^/]+)")
_AUTH = re.compile(rf"/api/(?P<kind>models|datasets)/{_NAME}/auth-check(?P<write>/write)?")
_LINKED = re.compile(r"/linked/(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    name: str
    data: bytes

    @property
    def lfs(self) -> bool:
        return self.name.endswith(_LFS)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob_id(self) -> str:
        """git's name for the content."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def described(self) -> dict[str, Any]:
        """The parts that a tree and a model's siblings share."""
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": len(self.data), "pointerSize": 134}
        return {"size": len(self.data), **({"lfs": lfs} if self.lfs else {})}


@dataclass
class Repository:
    """One model, or a dataset if its name begins with `datasets/`. `token`: who alone sees it (private), or may download it (gated); None: everybody."""

    name: str
    token: str | None = None
    gated: bool = False
    uploaded: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256, whether a commit has them yet or not."""
    messages: list[str] = field(default_factory=list)
    """Of the commits that were pushed, in order."""
    commits: dict[str, list[File]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, directory: Path, revision: str = "main") -> str:
        """Takes a directory's present content for a revision; the commit's name."""
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        return self.take([File(path.relative_to(directory).as_posix(), path.read_bytes()) for path in paths], revision)

    def take(self, files: list[File], revision: str = "main") -> str:
        """Takes files for a revision; the commit's name."""
        sha = hashlib.sha1("".join(f"{self.name} {f.name} {f.sha256}\n" for f in files).encode()).hexdigest()
        self.commits[sha] = files
        self.revisions[revision] = sha
        return sha


@dataclass(frozen=True)
class Account:
    """Whose a token is, and what it may: `role` is `read`, `write` or `fineGrained`, then with `permissions` on `scope`."""

    name: str
    role: str = "write"
    orgs: dict[str, str] = field(default_factory=dict)
    """Organization -> this user's role in it: `admin`, `write`, `contributor`, `read`."""
    permissions: tuple[str, ...] = ()

    def may_write(self, owner: str) -> bool:
        allowed = self.role == "write" or "repo.write" in self.permissions
        return allowed and (owner == self.name or self.orgs.get(owner, "read") != "read")

    def described(self) -> dict[str, Any]:
        """As `whoami-v2` has it."""
        entity = {"_id": "1", "type": "user", "name": self.name}
        scoped = {"scoped": [{"entity": entity, "permissions": list(self.permissions)}], "global": []}
        token = {
            "displayName": "t",
            "role": self.role,
            **({"fineGrained": scoped} if self.role == "fineGrained" else {}),
        }
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        known = {"type": "user", "id": "1", "name": self.name, "fullname": self.name, "orgs": orgs}
        return {**known, "auth": {"type": "access_token", "accessToken": token}}


@dataclass(frozen=True)
class Asked:
    """One request that arrived."""

    method: str
    path: str
    authorized: bool
    """It showed a token."""
    range: str


@dataclass
class Faults:
    """How the mirror misbehaves; counts run down with each request that they spoil."""

    statuses: list[int] = field(default_factory=list)
    """The next requests are answered so."""
    spared: str = ""
    """But not those whose path holds this."""
    cut_after_bytes: int | None = None
    """The next large body ends here, with the connection."""
    altered: str = ""
    """This file's content is another than its digest says."""
    hold: threading.Event = field(default_factory=threading.Event)
    """While it is cleared, large bodies stop after their first piece."""
    silent: bool = False
    """Requests are read and not answered."""
    refuse_pushes: int = 0
    """Whatever would write is answered so; 0: it is not."""

    def __post_init__(self) -> None:
        self.hold.set()


class HubMirror:
    """The mirror; see `running`."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        """Whose a token is. A token that is no account's may at most read what was served for it."""
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.faults = Faults()
        self.ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """What to give as endpoint, or as `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def elsewhere(self) -> str:
        """Where large files are: to clients another host, which must not be shown the token."""
        return f"http://localhost:{self._server.server_port}"

    def serve(self, name: str, directory: Path, *, token: str | None = None, gated: bool = False) -> str:
        """Serves a directory as the branch `main` of a model, or of `datasets/owner/name`; the commit's name."""
        repository = self.repositories[name] = Repository(name, token, gated)
        return repository.commit(directory)

    def asked_for(self, part: str) -> list[Asked]:
        """The requests whose path holds `part`."""
        return [each for each in self.asked if part in each.path]

    def bodies(self) -> int:
        """How many large files were asked for."""
        return sum(each.method == "GET" for each in self.asked_for("/linked/"))

    @contextmanager
    def running(self) -> Iterator[HubMirror]:
        """Serves in threads."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self.faults.hold.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Refused(Exception):  # noqa: N818 - it says what happened
    """An answer in the hub's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def _handler(mirror: HubMirror) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        hub = mirror

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubMirror

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Silent: `asked` is the record."""

    def _answer(self) -> None:
        hub, parts = self.hub, urlsplit(self.path)
        self._sent = self._body()
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        hub.asked.append(Asked(self.command, self.path, bool(token), self.headers.get("range") or ""))
        if hub.faults.silent:
            hub.ended.wait()
            self.close_connection = True
            return
        try:
            self._fail_as_told()
            self._route(unquote(parts.path), parse_qs(parts.query), token)
        except _Refused as refused:
            body = json.dumps({"error": refused.message}).encode()
            headers = {"X-Error-Message": refused.message, "content-type": "application/json"}
            self._send(refused.status, body, {**headers, **({"X-Error-Code": refused.code} if refused.code else {})})

    def _fail_as_told(self) -> None:
        spared = self.hub.faults.spared
        if self.hub.faults.statuses and not (spared and spared in self.path):
            raise _Refused(self.hub.faults.statuses.pop(0), "", "told to fail")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _push(self, path: str, token: str) -> None:
        """What huggingface_hub calls to commit: the repository, the card's check, modes, large files, the commit."""
        hub = self.hub
        if match := _UPLOAD.fullmatch(path):  # pre-signed, as the real one's: without a token
            if hashlib.sha256(self._sent).hexdigest() != match["digest"]:
                raise _Refused(400, "", "another content than was promised")
            hub.repositories[match["name"]].uploaded[match["digest"]] = self._sent
            self._send(200, b"", {})
            return
        if hub.faults.refuse_pushes:
            raise _Refused(hub.faults.refuse_pushes, "", "told to refuse pushes")
        match = _COMMIT.fullmatch(path)
        told = {} if match else json.loads(self._sent)
        named = match or _PREUPLOAD.fullmatch(path) or _BATCH.fullmatch(path)
        account = hub.accounts.get(token)
        owner = (
            named["name"].partition("/")[0] if named else str(told.get("organization") or (account and account.name))
        )
        if account is None or not account.may_write(owner):
            raise _Refused(401 if not token else 403, "", "You don't have the rights to write")
        if match:
            self._commit(match["name"])
        else:
            self._prepare(path, told, token)

    def _prepare(self, path: str, told: dict[str, Any], token: str) -> None:
        """Everything before the commit."""
        hub = self.hub
        if _CREATE.fullmatch(path):
            name = f"{told['organization']}/{told['name']}"
            status = 409 if name in hub.repositories else 200
            if status == 200:
                hub.repositories[name] = Repository(name, token if told.get("visibility") == "private" else None)
                hub.repositories[name].take([])
            known = {"url": f"{hub.url}/{name}", "id": name, **({"error": "it is there"} if status == 409 else {})}
            self._send(status, json.dumps(known).encode(), {"content-type": "application/json"})
        elif _YAML.fullmatch(path):
            named = re.search(r"^base_model: (.*)$", told["content"], re.MULTILINE)
            wrong = named is not None and not re.fullmatch(r'"?[\w.-]+/[\w.-]+"?', named[1])
            self._json({"errors": [{"message": '"base_model" is not valid'}] if wrong else [], "warnings": []})
        elif match := _PREUPLOAD.fullmatch(path):
            there = {f.name: f.sha256 if f.lfs else f.blob_id for f in self._present(match["name"])}
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(_LFS) else "regular",
                    "shouldIgnore": False,
                    "oid": there.get(file["path"]),
                }
                for file in told["files"]
            ]
            self._json({"files": modes})
        elif match := _BATCH.fullmatch(path):
            self._lfs_batch(match["name"], told)
        else:
            raise _Refused(404, "", "no such endpoint")

    def _present(self, name: str) -> list[File]:
        repository = self.hub.repositories.get(name)
        if repository is None:
            raise _Refused(404, "RepoNotFound", "Repository not found")
        return repository.commits.get(repository.revisions.get("main", ""), [])

    def _lfs_batch(self, name: str, told: dict[str, Any]) -> None:
        known = {f.sha256 for f in self._present(name)} | self.hub.repositories[name].uploaded.keys()
        objects = []
        for wanted in told["objects"]:
            href = f"{self.hub.elsewhere}/upload/{name}/{wanted['oid']}"
            upload = {} if wanted["oid"] in known else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **upload})
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str) -> None:
        files = {file.name: file for file in self._present(name)}
        repository = self.hub.repositories[name]
        for line in self._sent.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "header":
                repository.messages.append(value["summary"])
            elif said["key"] == "file":
                files[value["path"]] = File(value["path"], base64.b64decode(value["content"]))
            elif said["key"] == "lfsFile":
                files[value["path"]] = File(value["path"], repository.uploaded[value["oid"]])
            else:
                raise _Refused(400, "", f"no such operation: {said['key']}")
        sha = repository.take(sorted(files.values(), key=lambda file: file.name))
        self._json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "hookOutput": ""}
        )

    def _route(self, path: str, query: dict[str, list[str]], token: str) -> None:
        if self.command in {"POST", "PUT"}:
            self._push(path, token)
        elif match := _LINKED.fullmatch(path):
            self._content(self._linked(match["digest"]))
        elif path == "/api/whoami-v2":
            if token not in self.hub.accounts:
                raise _Refused(401, "", "Invalid credentials in Authorization header")
            self._json(self.hub.accounts[token].described())
        elif match := _AUTH.fullmatch(path):
            self._found(match, token, download=True, revision="main")
            account = self.hub.accounts.get(token)
            if match["write"] and (account is None or not account.may_write(match["name"].partition("/")[0])):
                raise _Refused(403, "", "You don't have the rights to write")
            self._json({})
        elif match := _FILE.fullmatch(path):
            self._resolve(*self._found(match, token, download=True), match["file"])
        elif match := _TREE.fullmatch(path):
            _, _, files = self._found(match, token)
            self._json([{"type": "file", "oid": f.blob_id, "path": f.name, **f.described()} for f in files])
        elif match := _INFO.fullmatch(path):
            repository, sha, files = self._found(match, token)
            described = [
                {"rfilename": f.name, **({"blobId": f.blob_id, **f.described()} if "blobs" in query else {})}
                for f in files
            ]
            known = {"id": repository.name, "modelId": repository.name, "sha": sha, "siblings": described}
            self._json({**known, "private": repository.token is not None, "tags": [], "downloads": 0, "likes": 0})
        else:
            raise _Refused(404, "", "no such endpoint")

    def _found(
        self, match: re.Match[str], token: str, *, download: bool = False, revision: str = ""
    ) -> tuple[Repository, str, list[File]]:
        """The repository, the commit and its files; refused as the hub refuses."""
        repositories = self.hub.repositories
        if token and token not in {r.token for r in repositories.values()} | self.hub.accounts.keys():
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        name = f"datasets/{match['name']}" if match["kind"] == "datasets" else match["name"]
        repository = repositories.get(name)
        allowed = repository is not None and repository.token in {None, token}
        if repository is None or (not allowed and not repository.gated):
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if not allowed and download:
            raise _Refused(403 if token else 401, "GatedRepo", f"Access to model {repository.name} is restricted")
        revision = revision or match["revision"] or "main"
        sha = repository.revisions.get(revision, revision)
        if sha not in repository.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, sha, repository.commits[sha]

    def _resolve(self, _repository: Repository, sha: str, files: list[File], name: str) -> None:
        file = next((f for f in files if f.name == name), None)
        if file is None:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": sha}
        if not file.lfs:
            self._content(file, {**headers, "ETag": f'"{file.blob_id}"'})
            return
        linked = {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.elsewhere}/linked/{file.sha256}"})

    def _linked(self, digest: str) -> File:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for file in files:
                    if file.sha256 == digest:
                        return file
        raise _Refused(404, "EntryNotFound", "Entry not found")

    def _content(self, file: File, headers: dict[str, str] | None = None) -> None:
        data = file.data
        if file.name == self.hub.faults.altered:
            data = bytes(len(data) - 1) + b"!"
        status, first, end = 200, 0, len(data)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or ""):
            status, first = 206, int(match[1])
            end = min(end, int(match[2]) + 1) if match[2] else end
        whole = {"ETag": f'"{file.sha256}"', "accept-ranges": "bytes", **(headers or {})}
        if status == 206:
            whole["content-range"] = f"bytes {first}-{end - 1}/{len(data)}"
        self._send(status, data[first:end], whole, large=file.lfs)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, large: bool = False) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # whoever asked went away
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self._write(body, large=large)

    def _write(self, body: bytes, *, large: bool) -> None:
        faults = self.hub.faults
        for start in range(0, len(body), _PIECE_BYTES):
            piece = body[start : start + _PIECE_BYTES]
            if large and start:
                faults.hold.wait()
            if large and faults.cut_after_bytes is not None and start + len(piece) > faults.cut_after_bytes:
                self.wfile.write(piece[: max(faults.cut_after_bytes - start, 0)])
                self.wfile.flush()
                faults.cut_after_bytes = None
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(piece)
            self.wfile.flush()
