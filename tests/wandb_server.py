"""A W&B server of a few lines on 127.0.0.1: what a client needs to begin, fill, resume, sync and end a run."""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class ReceivedRun:
    """What arrived of one run; the lines of its history by their number, as the file stream counts them."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows in the order of their line numbers."""
        return [self.lines[number] for number in sorted(self.lines)]

    def bucket(self) -> dict[str, Any]:
        """The run as GraphQL tells of it, with what a client needs to go on with it."""
        config = self.fields.get("config") or "{}"
        started = json.loads(config).get("_wandb", {}).get("value", {})
        return {
            "id": f"id_{self.name}",
            "name": self.name,
            "displayName": self.fields.get("displayName") or self.name,
            "description": "",
            "config": config,
            "wandbConfig": json.dumps({"t": started["t"]} if "t" in started else {}),  # a run without is not resumed
            "sweepName": None,
            "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "lab"}},
            "tags": [],
            "historyLineCount": len(self.lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in self.history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(self.summary),
            "historyKeys": None,
        }


class WandbServer:
    """Serves within a ``with`` block; ends, as if it had crashed, with the block or ``close``.

    Args:
        status: HTTP status of every answer; 200 for a server that works.
        silent: take connections and never answer.
    """

    def __init__(self, status: int = 200, silent: bool = False) -> None:
        self.status, self.silent = status, silent
        self.runs: dict[str, ReceivedRun] = {}
        self.unknown: list[str] = []
        self._closed = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve("GET")

            def do_POST(self) -> None:
                self._serve("POST")

            def do_PUT(self) -> None:
                self._serve("PUT")

            def _serve(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if server.silent:
                    server._closed.wait()
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = json.dumps(server._answer(method, self.path, body) if server.status == 200 else {}).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away: from now on the address refuses."""
        if not self._closed.is_set():
            self._closed.set()
            self._http.shutdown()
            self._http.server_close()

    def _answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        if path == "/graphql":
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = found.group(1) if found else ""
            data = self._graphql(operation, request.get("variables") or {})
            if data is None:
                self.unknown.append(operation)
                return {"data": None, "errors": [{"message": f"unknown operation {operation}"}]}
            return {"data": data}
        if found := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self._file_stream(self.runs[found.group(1)], json.loads(body))
        elif (found := re.fullmatch(r"/upload/([^/]+)/(.+)", path)) and method == "PUT":
            self.runs[found.group(1)].files.add(found.group(2))
        return {}

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        match operation:
            case "Viewer":
                teams: dict[str, Any] = {"edges": []}
                return {"viewer": {"id": "u", "entity": "lab", "username": "lab", "flags": "{}", "teams": teams}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "UpsertBucket":
                name = variables.get("name") or variables["id"].removeprefix("id_")
                inserted = name not in self.runs
                run = self.runs.setdefault(name, ReceivedRun(name))
                run.fields |= {key: value for key, value in variables.items() if value is not None}
                return {"upsertBucket": {"bucket": run.bucket(), "inserted": inserted}}
            case "RunResumeStatus":
                known = self.runs.get(variables["name"])
                entity = {"id": "e", "name": "lab"}
                return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": known and known.bucket()}}
            case "CreateRunFiles":
                name = variables["run"]
                files = [{"name": file, "uploadUrl": f"{self.url}/upload/{name}/{file}"} for file in variables["files"]]
                return {"createRunFiles": {"runID": f"id_{name}", "uploadHeaders": [], "files": files}}
        return None

    def _file_stream(self, run: ReceivedRun, message: dict[str, Any]) -> None:
        for name, content in (message.get("files") or {}).items():
            rows = [json.loads(line) for line in content["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                run.lines |= {content["offset"] + number: row for number, row in enumerate(rows)}
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        if message.get("complete"):
            run.exit_code = message["exitcode"]
