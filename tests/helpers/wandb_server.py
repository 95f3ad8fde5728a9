"""A W&B server of a few lines on 127.0.0.1: what a client needs to begin, fill, resume, sync, end and sweep runs."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import yaml

#: The only one.
PROJECT = {
    "__typename": "Project",
    "id": "p",
    "name": "p",
    "entityName": "lab",
    "createdAt": "2026-01-01T00:00:00",
    "isBenchmark": False,
    "user": None,
}


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

    @property
    def last_step(self) -> int:
        """Of its rows; -1 where there are none."""
        return max((row["_step"] for row in self.history), default=-1)

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
            "sweepName": self.fields.get("sweep"),
            "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "lab"}},
            "tags": self.fields.get("tags") or [],
            "historyLineCount": len(self.lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in self.history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(self.summary),
            "historyKeys": None,
        }

    def node(self) -> dict[str, Any]:
        """The run as GraphQL tells of it to who reads it."""
        ended = {None: "running", 0: "finished"}.get(self.exit_code, "failed")
        labels = {"state": ended, "group": self.fields.get("groupName"), "jobType": self.fields.get("jobType")}
        times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00")
        rest = {"projectId": "1", "commit": None, "readOnly": False, "notes": None, "systemMetrics": "{}", "user": {}}
        return {**self.bucket(), **labels, **times, **rest, "historyKeys": {"lastStep": self.last_step}}


@dataclass
class ReceivedArtifact:
    """What arrived of a version of an artifact; its files by their path."""

    fields: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    @property
    def name(self) -> str:
        """The same for all versions."""
        return str(self.fields["artifactCollectionName"])

    @property
    def aliases(self) -> list[str]:
        """Of the version."""
        return [alias["alias"] for alias in self.fields["aliases"]]


@dataclass
class ReceivedSweep:
    """A grid; ``waiting`` are its points that no agent has been given."""

    name: str
    text: str
    waiting: list[dict[str, Any]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        parameters = yaml.safe_load(self.text)["parameters"]
        grid = itertools.product(*(parameter["values"] for parameter in parameters.values()))
        self.waiting = [dict(zip(parameters, point, strict=True)) for point in grid]

    def command(self) -> dict[str, Any]:
        """What an agent without work is told."""
        if not self.waiting:
            return {"type": "exit"}
        self.begun.append(f"{self.name}run{len(self.begun)}")
        point = {key: {"value": value} for key, value in self.waiting.pop(0).items()}
        return {"type": "run", "run_id": self.begun[-1], "program": None, "args": point}

    def node(self) -> dict[str, Any]:
        """The sweep as GraphQL tells of it."""
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "lab"}}
        runs: dict[str, Any] = {"edges": []}
        return {"id": self.name, "name": self.name, "config": self.text, "project": project, "runs": runs}


class WandbServer:
    """Serves within a ``with`` block; ends, as if it had crashed, with the block or ``close``.

    Args:
        status: HTTP status of every answer; 200 for a server that works.
        silent: take connections and never answer.
    """

    def __init__(self, status: int = 200, silent: bool = False) -> None:
        self.status, self.silent = status, silent
        self.runs: dict[str, ReceivedRun] = {}
        self.sweeps: dict[str, ReceivedSweep] = {}
        self.stopped: set[str] = set()  # runs of sweeps that their agent is to end, as early termination does
        self.artifacts: list[ReceivedArtifact] = []
        self.views: list[dict[str, Any]] = []
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
        elif (found := re.fullmatch(r"/artifact/(\d+)/(.+)", path)) and method == "PUT":
            self.artifacts[int(found.group(1))].files[found.group(2)] = body
        return {}

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        match operation:
            case "Viewer":
                teams: dict[str, Any] = {"edges": []}
                return {"viewer": {"id": "u", "entity": "lab", "username": "lab", "flags": "{}", "teams": teams}}
            case "GetDefaultEntity":
                return {"viewer": {"id": "u", "entity": "lab"}}
            case "Runs":
                edges = [{"node": run.node(), "cursor": name} for name, run in self.runs.items()]
                page = {"endCursor": None, "hasNextPage": False}
                found = {"edges": edges, "pageInfo": page}
                return {"project": {"internalId": "p", "runCount": len(edges), "readOnly": False, "runs": found}}
            case "RunHistoryKeys":
                return {"project": {"run": {"historyKeys": {"lastStep": self.runs[variables["name"]].last_step}}}}
            case "RunParquetHistory":
                rows = self.runs[variables["runName"]].history
                return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": rows}}}}
            case "HistoryPage":
                rows, steps = self.runs[variables["run"]].history, range(variables["minStep"], variables["maxStep"])
                page = [json.dumps(row) for row in rows if row["_step"] in steps]
                return {"project": {"run": {"history": page}}}
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
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                return {"createArtifact": {"artifact": self._create_artifact(variables["input"])}}
            case "CreateArtifactManifest":
                return {"createArtifactManifest": self._manifest(variables["artifactID"])}
            case "UpdateArtifactManifest":
                return {"updateArtifactManifest": self._manifest(variables["artifactManifestID"])}
            case "CreateArtifactFiles":
                files = variables["input"]["artifactFiles"]
                return {
                    "createArtifactFiles": {"files": {"edges": [{"node": self._artifact_file(**f)} for f in files]}}
                }
            case "CommitArtifact":
                artifact = self.artifacts[int(variables["artifactID"])]
                artifact.committed = True
                return {
                    "commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": artifact.fields["digest"]}}
                }
            case "ProjectInternalId":
                return {"project": {"id": "p", "internalId": "p"}}
            case "GetProjects":
                page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
                return {"models": {"edges": [{"node": PROJECT}], "pageInfo": page}}
            case "upsertView" | "UpsertView2":
                self.views.append({**variables, "spec": json.loads(variables["spec"])})
                made = {"id": f"view{len(self.views)}", "spec": variables["spec"], "project": PROJECT, "user": None}
                said = {key: variables.get(key) for key in ("type", "name", "displayName", "description")}
                times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
                rest = {"locked": False, "previewUrl": None, "viewCount": 0, "starCount": 0, "coverUrl": None}
                return {"upsertView": {"inserted": True, "view": {**made, **said, **times, **rest}}}
            case "UpsertSweep":
                name = f"sweep{len(self.sweeps)}"
                self.sweeps[name] = ReceivedSweep(name, variables["config"])
                return {"upsertSweep": {"sweep": self.sweeps[name].node(), "configValidationWarnings": []}}
            case "SweepWithRuns":
                return {"project": {"sweep": self.sweeps[variables["sweep"]].node()}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": f"agent_{variables['sweep']}"}}}
            case "Heartbeat":
                sweep, running = self.sweeps[variables["id"].removeprefix("agent_")], json.loads(variables["runState"])
                commands = [{"type": "stop", "run_id": name} for name in running if name in self.stopped]
                commands += [] if running else [sweep.command()]
                return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}
        return None

    def _create_artifact(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A new version, or the one that has the same content."""
        for number, known in enumerate(self.artifacts):
            if known.committed and all(
                known.fields[key] == fields[key] for key in ("artifactCollectionName", "digest")
            ):
                known.fields["aliases"] += fields["aliases"]
                return {
                    "id": str(number),
                    "state": "COMMITTED",
                    "artifactSequence": {"latestArtifact": {"id": str(number)}},
                }
        self.artifacts.append(ReceivedArtifact(fields))
        return {"id": str(len(self.artifacts) - 1), "state": "PENDING", "artifactSequence": {"latestArtifact": None}}

    def _manifest(self, artifact: str) -> dict[str, Any]:
        file = {"id": artifact, "uploadUrl": f"{self.url}/artifact/{artifact}/manifest.json", "uploadHeaders": []}
        return {"artifactManifest": {"id": artifact, "file": file}}

    def _artifact_file(self, artifactID: str, name: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        url = f"{self.url}/artifact/{artifactID}/{name}"
        node = {"storagePath": name, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
        return {**node, "artifact": {"id": artifactID}}

    def _file_stream(self, run: ReceivedRun, message: dict[str, Any]) -> None:
        for name, content in (message.get("files") or {}).items():
            rows = [json.loads(line) for line in content["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                run.lines |= {content["offset"] + number: row for number, row in enumerate(rows)}
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        if message.get("complete"):
            run.exit_code = message["exitcode"]
