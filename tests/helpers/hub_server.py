"""A Hub on this machine: enough of its protocol for the real `huggingface_hub` to push to it and to load from it.

    with HubServer() as hub:
        hub.fail("commit", 500)  # the next one
        subprocess.run(command, env=hub.environment(tmp_path / "home"))
        assert "README.md" in hub.files("dataset", f"{USER}/rows")

The client reads its environment when it is imported, so it belongs in a process of its own. Everything is in memory.
Not spoken: Xet (`environment` turns it off), uploads in parts, tags, pull requests, Spaces.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote

import yaml

USER, TOKEN = "tester", "hf_secret_of_the_tester"
CUT = 0  # instead of a status: the connection ends before the request has any effect
LOST = -1  # the request is carried out, and the connection ends instead of an answer
HALF = -2  # the connection ends in the middle of what the client sends

_LARGE = (".parquet", ".arrow", ".safetensors", ".bin", ".pt", ".gz")  # what a commit keeps as a pointer
_LICENSES = ("mit", "apache-2.0", "cc-by-4.0", "other")
_ID, _REVISION = r"(?P<id>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
_API, _REPO = f"/api/(?:models|(?P<type>datasets))/{_ID}", f"/(?P<type>datasets/)?{_ID}"

# The kinds of requests: methods and path. The method of that name of `_Handler` answers.
ROUTES = {
    "whoami": ("GET", "/api/whoami-v2"),
    "create": ("POST", "/api/repos/create"),
    "validate": ("POST", "/api/validate-yaml"),
    "auth": ("GET", f"{_API}/auth-check(?:/write)?"),
    "preupload": ("POST", f"{_API}/preupload/{_REVISION}"),
    "batch": ("POST", rf"{_REPO}\.git/info/lfs/objects/batch"),
    "upload": ("PUT", r"/storage/(?P<oid>\w+)"),
    "verify": ("POST", r"/storage/(?P<oid>\w+)/verify"),
    "branch": ("POST", f"{_API}/branch/{_REVISION}"),
    "commit": ("POST", f"{_API}/commit/{_REVISION}"),
    "info": ("GET", f"{_API}(?:/revision/{_REVISION})?"),
    "refs": ("GET", f"{_API}/refs"),
    "tree": ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.*))?"),
    "paths": ("POST", f"{_API}/paths-info/{_REVISION}"),
    "download": ("GET HEAD", f"{_REPO}/resolve/{_REVISION}/(?P<path>.+)"),
}


class File(NamedTuple):
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Its name in git."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        blob = pointer.encode() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


class Commit(NamedTuple):
    """All files of a repository, by path."""

    oid: str
    summary: str
    files: dict[str, File]

    def entries(self) -> dict[str, dict[str, Any]]:
        """What a tree lists, by path: files, and the folders they are in."""
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        entries = {path: {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders}
        for path, file in self.files.items():
            size = len(file.content)
            entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": size}
            if file.large:
                entries[path]["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": 130}
        return entries


class Repo(NamedTuple):
    """A repository: of each branch its commits, oldest first."""

    url: str
    private: bool
    branches: dict[str, list[Commit]]

    @property
    def commits(self) -> list[Commit]:
        """Of `main`."""
        return self.branches["main"]

    def add(self, summary: str, files: dict[str, File], branch: str = "main") -> Commit:
        commits = self.branches.setdefault(branch, [])
        content = repr((branch, len(commits), summary, sorted((path, file.oid) for path, file in files.items())))
        commits.append(Commit(hashlib.sha1(content.encode()).hexdigest(), summary, files))
        return commits[-1]


class Reply(NamedTuple):
    """An answer; a `body` that is not bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}


class Refusal(Exception):
    """An answer that is an error, by the headers that tell the client which."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.reply = Reply({"error": message}, status, {"X-Error-Message": message, "X-Error-Code": code})


class HubServer:
    """The server, for as long as its `with` lasts. `requests` are the kinds that came, in order."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}  # by type and id
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.requests: list[str] = []
        self.faults: dict[tuple[str, int], Reply] = {}
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a process that is to take this for the Hub."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        hub = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return kept | hub | quiet | ({"HF_TOKEN": token} if token else {})

    def files(self, repo_type: str, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch of a repository holds now."""
        commits = self.repos[repo_type, repo_id].branches[branch]
        return {path: file.content for path, file in commits[-1].files.items()}

    def fail(self, kind: str, what: int, *, at: int = 1, times: int = 1, retry_after: int | None = None) -> None:
        """Answer requests of a kind with the status `what`, or CUT, HALF or LOST; the first is the `at`-th from now."""
        first = self.requests.count(kind) + at
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.faults |= {(kind, number): Reply({}, what, headers) for number in range(first, first + times)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, hub: HubServer, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        for kind, (methods, pattern) in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found and self.command in methods.split():
                self.parts = {name: value and unquote(value) for name, value in found.groupdict().items()}
                with self.hub.lock:
                    self.hub.requests.append(kind)
                    fault = self.hub.faults.pop((kind, self.hub.requests.count(kind)), None)
                length = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(length // 2 if fault is not None and fault.status == HALF else length)
                with self.hub.lock:
                    reply = self.reply(kind, fault)
                return self.send(reply)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send(Reply({"error": f"{self.command} {path} is not spoken here"}, 404))

    do_HEAD = do_POST = do_PUT = do_GET

    def reply(self, kind: str, fault: Reply | None) -> Reply:
        if fault is not None and fault.status != LOST:
            return fault
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            if self.token not in ("", TOKEN):
                raise Refusal(401, "Invalid credentials in Authorization header")
            # Reading what is public takes no token, nor does a place to send files to, whose URL is signed on the Hub.
            if not self.token and (kind == "whoami" or (self.command == "POST" and kind not in ("paths", "validate"))):
                raise Refusal(401, "Invalid username or password.")
            done = getattr(self, kind)()
            return fault or done
        except Refusal as refusal:
            return refusal.reply

    def send(self, reply: Reply) -> None:
        if reply.status in (CUT, HALF, LOST):
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def repo(self) -> Repo:
        repo = self.hub.repos.get(("dataset" if self.parts["type"] else "model", self.parts["id"]))
        if repo is None or (repo.private and not self.token):
            raise Refusal(404 if self.token else 401, "Repository not found", "RepoNotFound")
        return repo

    @property
    def head(self) -> Commit:
        """The commit that is asked for: the last of a branch, or that of a name."""
        revision, branches = self.parts["revision"] or "main", self.repo.branches
        if revision in branches:
            return branches[revision][-1]
        found = [commit for commits in branches.values() for commit in commits if commit.oid == revision]
        if not found:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def whoami(self) -> Reply:
        return Reply({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> Reply:
        asked = {"type": "model", "visibility": "public"} | self.json
        if asked["organization"] not in (None, USER):
            raise Refusal(403, f"You don't have the rights to create a {asked['type']} under {asked['organization']}")
        key = asked["type"], f"{USER}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if asked['type'] == 'dataset' else ''}{key[1]}"
        if key in self.hub.repos:
            return Reply({"error": f"You already created this {asked['type']} repo", "url": url}, 409)
        self.hub.repos[key] = Repo(url, asked["visibility"] == "private", {})
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LARGE)
        self.hub.repos[key].add("initial commit", {".gitattributes": File(attributes.encode(), False)})
        return Reply({"url": url})

    def validate(self) -> Reply:
        """Of the front matter of a card, the Hub refuses more than this."""
        front = self.json["content"].split("---\n", 2)[1]
        if yaml.safe_load(front).get("license", "mit") not in _LICENSES:
            return Reply({"errors": [{"message": f'"license" must be one of {_LICENSES}'}]}, 400)
        return Reply({"errors": [], "warnings": []})

    def auth(self) -> Reply:
        return Reply({"private": self.repo.private})

    def preupload(self) -> Reply:
        """How to send files, and the name of what the commit has in their places."""
        there = {path: file.sha256 if file.large else file.oid for path, file in self.head.files.items()}
        files = [{"path": file["path"], "oid": there.get(file["path"])} for file in self.json["files"]]
        for file in files:
            file |= {"uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular", "shouldIgnore": False}
        return Reply({"files": files})

    def batch(self) -> Reply:
        """Where to send large files; one that has come before needs no action."""
        objects = self.json["objects"]
        for one in objects:
            url = f"{self.hub.url}/storage/{one['oid']}"
            if one["oid"] not in self.hub.objects:
                one["actions"] = {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}
        return Reply({"transfer": "basic", "objects": objects})

    def upload(self) -> Reply:
        if hashlib.sha256(self.body).hexdigest() != self.parts["oid"]:
            raise Refusal(400, "The content is not what its name says")
        self.hub.objects[self.parts["oid"]] = self.body
        return Reply({})

    def verify(self) -> Reply:
        if len(self.hub.objects[self.parts["oid"]]) != self.json["size"]:
            raise Refusal(400, "The object has another size")
        return Reply({})

    def branch(self) -> Reply:
        name, branches = self.parts["revision"], self.repo.branches
        if name in branches:
            raise Refusal(409, f"Reference already exists: {name}")
        branches[name] = [*branches[self.json.get("startingPoint", "main")]]
        return Reply({})

    def commit(self) -> Reply:
        header, *operations = map(json.loads, self.body.splitlines())
        if header["value"].get("parentCommit", self.head.oid) != self.head.oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.head.files)
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    files[value["path"]] = File(self.hub.objects[value["oid"]], True)
                case "deletedFile":
                    del files[value["path"]]
                case "deletedFolder":
                    files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
        if self.parts["revision"] not in self.repo.branches:
            raise Refusal(404, "One commits to a branch", "RevisionNotFound")
        oid = self.repo.add(header["value"]["summary"], files, self.parts["revision"]).oid
        return Reply({"success": True, "commitOid": oid, "commitUrl": f"{self.repo.url}/commit/{oid}"})

    def info(self) -> Reply:
        siblings = [{"rfilename": path} for path in sorted(self.head.files)]
        about = {"id": self.parts["id"], "sha": self.head.oid, "private": self.repo.private}
        return Reply({**about, "siblings": siblings, "tags": [], "gated": False, "disabled": False})

    def refs(self) -> Reply:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commits[-1].oid}
            for name, commits in self.repo.branches.items()
        ]
        return Reply({"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    def tree(self) -> Reply:
        folder = PurePosixPath(self.parts["path"] or ".")
        inside = [entry for path, entry in self.head.entries().items() if folder in PurePosixPath(path).parents]
        if not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        if self.query.get("recursive") != ["true"]:
            inside = [entry for entry in inside if PurePosixPath(entry["path"]).parent == folder]
        return Reply(inside)

    def paths(self) -> Reply:
        entries = self.head.entries()
        return Reply([entries[path] for path in parse_qs(self.body.decode())["paths"] if path in entries])

    def download(self) -> Reply:
        file = self.head.files.get(self.parts["path"])
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        name, size = f'"{file.sha256 if file.large else file.oid}"', len(file.content)
        headers = {"ETag": name, "X-Repo-Commit": self.head.oid, "Accept-Ranges": "bytes"}
        if file.large:
            headers |= {"X-Linked-ETag": name, "X-Linked-Size": str(size)}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return Reply(file.content, 200, headers)
        start, end = int(part[1]), min(int(part[2] or size), size - 1)
        return Reply(file.content[start : end + 1], 206, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"})
