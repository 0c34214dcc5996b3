"""A stub of W&B's server. It answers the GraphQL requests that the client sends to save a report."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

USER, PROJECT = "tester", "worlds"
_PROJECT = {"id": "UDox", "internalId": "SDox", "name": PROJECT, "entityName": USER}


class WandbServer:
    """A server with one user and one project. `saved` holds the GraphQL variables of the reports that it received."""

    def __init__(self) -> None:
        self.saved: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                # Requests without a JSON body are telemetry.
                answer = json.dumps({"data": server.answer(json.loads(body))}) if body.startswith(b"{") else ""
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        if "upsertView" in query:
            self.saved.append(variables)
            view = {"id": "Vjox", "name": "n", "type": "runs", "displayName": variables["displayName"]}
            view |= {
                "description": "",
                "project": _PROJECT,
                "spec": variables["spec"],
                "updatedAt": "2026-01-01T00:00:00",
            }
            return {"upsertView": {"view": view, "inserted": True}}
        if "ProjectInternalId" in query:
            return {"project": _PROJECT}
        if "GetProjects" in query:
            page = {"hasNextPage": False, "endCursor": None}
            node = _PROJECT | {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
            return {"models": {"edges": [{"node": node, "cursor": "x"}], "pageInfo": page}}
        assert "viewer" in query, query
        user = {"id": "VTox", "entity": USER, "username": USER, "name": USER, "email": "", "admin": False}
        return {"viewer": user | {"flags": "{}", "teams": {"edges": []}, "apiKeys": {"edges": []}, "deletedAt": None}}
