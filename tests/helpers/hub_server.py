"""A local stand-in for the Hub that implements enough of its protocol for `huggingface_hub` to push and load.

    with HubServer() as hub:
        hub.fail("commit", 500)  # fail the next commit
        subprocess.run(command, env=hub.environment(tmp_path / "home"))
        assert "README.md" in hub.files("dataset", f"{USER}/rows")

The client reads environment variables on import, so run it in a separate process. The server keeps all data in memory.
It does not support Xet (`environment` turns it off), multi-part uploads, tags, pull requests and Spaces.
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
CUT = 0  # a status that means: close the connection before the request has any effect
LOST = -1  # likewise: carry out the request, then close the connection instead of answering
HALF = -2  # likewise: close the connection while the client is sending

_LARGE = (".parquet", ".arrow", ".safetensors", ".bin", ".pt", ".gz")  # files that git stores as LFS pointers
_LICENSES = ("mit", "apache-2.0", "cc-by-4.0", "other")
_ID, _REVISION = r"(?P<id>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"
_API, _REPO = f"/api/(?:models|(?P<type>datasets))/{_ID}", f"/(?P<type>datasets/)?{_ID}"

# The kinds of requests, with their HTTP methods and paths. `_Handler` answers each in the method of the same name.
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
        """The hash by which git identifies the file."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        blob = pointer.encode() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()


class Commit(NamedTuple):
    """A commit, with all files that the repository then has, by path."""

    oid: str
    summary: str
    files: dict[str, File]

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return the Hub's descriptions of all files and folders of the commit, by path."""
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        entries = {path: {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders}
        for path, file in self.files.items():
            size = len(file.content)
            entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": size}
            if file.large:
                entries[path]["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": 130}
        return entries


class Repo(NamedTuple):
    """A repository, with the commits of each branch, oldest first."""

    url: str
    private: bool
    branches: dict[str, list[Commit]]

    @property
    def commits(self) -> list[Commit]:
        """The commits of `main`."""
        return self.branches["main"]

    def add(self, summary: str, files: dict[str, File], branch: str = "main") -> Commit:
        commits = self.branches.setdefault(branch, [])
        content = repr((branch, len(commits), summary, sorted((path, file.oid) for path, file in files.items())))
        commits.append(Commit(hashlib.sha1(content.encode()).hexdigest(), summary, files))
        return commits[-1]


class Reply(NamedTuple):
    """An HTTP answer. A `body` that is not bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}


class Refusal(Exception):
    """An error answer. Its headers tell the client which error it is."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.reply = Reply({"error": message}, status, {"X-Error-Message": message, "X-Error-Code": code})


class HubServer:
    """A server that runs inside a `with` block. `requests` lists the kinds of all requests received, in order."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}  # by type ("model" or "dataset") and id
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
        """Return the environment of a process that uses this server as its Hub."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        hub = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return kept | hub | quiet | ({"HF_TOKEN": token} if token else {})

    def files(self, repo_type: str, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """Return the contents of the current files of a branch, by path."""
        commits = self.repos[repo_type, repo_id].branches[branch]
        return {path: file.content for path, file in commits[-1].files.items()}

    def fail(self, kind: str, status: int, *, at: int = 1, times: int = 1, retry_after: int | None = None) -> None:
        """Let the next requests of a kind fail.

        Args:
            kind: a key of `ROUTES`.
            status: the HTTP status to answer, or CUT, HALF or LOST.
            at: the first request to fail, counted from now; 1 is the next request of this kind.
            times: the number of requests that fail.
            retry_after: the seconds in the header Retry-After; None sends no such header.
        """
        first = self.requests.count(kind) + at
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.faults |= {(kind, number): Reply({}, status, headers) for number in range(first, first + times)}


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
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split():
                self.parts = {name: value and unquote(value) for name, value in match.groupdict().items()}
                with self.hub.lock:
                    self.hub.requests.append(kind)
                    fault = self.hub.faults.pop((kind, self.hub.requests.count(kind)), None)
                length = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(length // 2 if fault is not None and fault.status == HALF else length)
                with self.hub.lock:
                    reply = self.reply(kind, fault)
                return self.send(reply)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send(Reply({"error": f"{self.command} {path} is not supported"}, 404))

    do_HEAD = do_POST = do_PUT = do_GET

    def reply(self, kind: str, fault: Reply | None) -> Reply:
        if fault is not None and fault.status != LOST:
            return fault
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            if self.token not in ("", TOKEN):
                raise Refusal(401, "Invalid credentials in Authorization header")
            # Reading public files needs no token. Uploading needs none, either, because the real Hub signs upload URLs.
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
        """Log nothing."""

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
        """The commit that the request names: by a branch, whose last commit it is, or by a hash."""
        revision, branches = self.parts["revision"] or "main", self.repo.branches
        if revision in branches:
            return branches[revision][-1]
        matches = [commit for commits in branches.values() for commit in commits if commit.oid == revision]
        if not matches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return matches[0]

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
        """Check the license in the front matter of a card. The real Hub checks more."""
        front = self.json["content"].split("---\n", 2)[1]
        if yaml.safe_load(front).get("license", "mit") not in _LICENSES:
            return Reply({"errors": [{"message": f'"license" must be one of {_LICENSES}'}]}, 400)
        return Reply({"errors": [], "warnings": []})

    def auth(self) -> Reply:
        return Reply({"private": self.repo.private})

    def preupload(self) -> Reply:
        """Answer how to upload each file, and the hash of the current file at the same path."""
        there = {path: file.sha256 if file.large else file.oid for path, file in self.head.files.items()}
        files = [{"path": file["path"], "oid": there.get(file["path"])} for file in self.json["files"]]
        for file in files:
            file |= {"uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular", "shouldIgnore": False}
        return Reply({"files": files})

    def batch(self) -> Reply:
        """Answer where to upload large files. A file that the server already has needs no upload."""
        objects = self.json["objects"]
        for item in objects:
            url = f"{self.hub.url}/storage/{item['oid']}"
            if item["oid"] not in self.hub.objects:
                item["actions"] = {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}
        return Reply({"transfer": "basic", "objects": objects})

    def upload(self) -> Reply:
        if hashlib.sha256(self.body).hexdigest() != self.parts["oid"]:
            raise Refusal(400, "The content does not match its hash")
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
            raise Refusal(404, "The revision of a commit must be a branch", "RevisionNotFound")
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
