"""A comparison published in W&B: what the server is told, and what a user is told where that fails."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb_server import WandbServer

import capsule_lightning.loggers.wandb as guard
from capsule_lightning.cli import compare as module
from capsule_lightning.cli import main
from capsule_lightning.comparison import Run, compare, tables, verdict
from capsule_lightning.comparison.wandb_report import publish
from capsule_lightning.errors import InputError

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")  # of its models
KEY = "model.net.routing"


def runs(parameters: bool = True) -> list[Run]:
    found = []
    for n, routing in enumerate(("EMRouting", "UniformRouting")):
        for seed in range(3):
            history = {
                "val/accuracy": {9: 0.5, 19: 0.6 + n / 10},
                "train/loss": {0: 1.0, 19: 0.2},
                "test/accuracy": {20: 0.6 + n / 10 + seed / 100},
            }
            history |= {"parameters": {0: 100.0 + n}} if parameters else {}
            config = {KEY: routing, "seed_everything": seed}
            found.append(Run(f"digits-{routing}-seed{seed}", config, history, 1.0, None, True))
    return [*found, Run("digits-cut", {KEY: "EMRouting"}, {}, None, None, False)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server with an account for it."""
    for name in list(os.environ):
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    guard.abandon()
    with WandbServer() as known:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", known.url)
        yield known
        guard.abandon()


def blocks(report: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [block for block in report["spec"]["blocks"] if block["type"] == kind]


def panels_of(grid: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]:
        found.setdefault(panel["viewType"], []).append(panel)
    return found


def test_the_report_says_what_the_table_says_and_shows_each_group(server: WandbServer) -> None:
    found = compare(runs())
    published = publish(found, "lab/p")
    assert server.unknown == []
    report, workspace = server.views
    assert (report["entityName"], report["projectName"], report["type"]) == ("lab", "p", "runs")
    assert (report["displayName"], report["description"]) == ("test accuracy by routing", "6 runs in 2 groups")
    assert published.report == f"{server.url}/lab/p/reports/test-accuracy-by-routing--view1"

    (said,) = blocks(report, "markdown-block")
    lines = said["content"].splitlines()
    assert lines[0].startswith("| routing | runs | test/accuracy | best val/accuracy |")
    assert lines[2].startswith("| UniformRouting | 3 | 71.00 ± 1.00 % | 70.00 % | 101 |")
    assert lines[3].startswith("| EMRouting | 3 | 61.00 ± 1.00 % | 60.00 % | 100 |")
    assert verdict(found) in said["content"]
    assert "Left out: digits-cut (not tested)." in said["content"]

    (grid,) = blocks(report, "panel-grid")
    for runset, routing in zip(grid["metadata"]["runSets"], ("UniformRouting", "EMRouting"), strict=True):
        assert runset["name"] == f"{routing} (3)"
        assert (runset["project"]["entityName"], runset["project"]["name"]) == ("lab", "p")
        assert runset["grouping"] == [{"section": "run", "name": "group"}]
        (chosen,) = runset["filters"]["filters"]
        assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "name"}, "IN")
        assert chosen["value"] == [f"digits-{routing}-seed{seed}" for seed in range(3)]

    panels = panels_of(grid)
    curves = [panel["config"] for panel in panels["Run History Line Plot"]]
    assert [curve["metrics"] for curve in curves] == [["val/accuracy"], ["train/loss"]]
    assert all((c["xAxis"], c["groupAgg"], c["groupArea"]) == ("trainer/global_step", "mean", "stddev") for c in curves)
    (bars,), (scatter,) = panels["Bar Chart"], panels["Scatter Plot"]
    assert bars["config"]["metrics"] == ["test/accuracy"]
    assert (scatter["config"]["xAxis"], scatter["config"]["yAxis"]) == ("summary:parameters", "summary:test/accuracy")
    places = [tuple(panel["layout"].values()) for kind in panels.values() for panel in kind]
    assert len(set(places)) == len(places) == 5

    assert (workspace["displayName"], workspace["type"]) == ("test accuracy by routing", "project-view")
    section = workspace["spec"]["section"]
    (runset,) = section["runSets"]
    assert runset["grouping"] == [{"section": "run", "name": "group"}]
    shown = [s for s in section["panelBankConfig"]["sections"] if s["name"] == "Comparison"]
    assert [len(s["panels"]) for s in shown] == [5]
    assert published.workspace.startswith(f"{server.url}/lab/p?nw=")


def test_what_no_run_has_is_not_drawn(server: WandbServer) -> None:
    publish(compare(runs(parameters=False)), "lab/p")
    (grid,) = blocks(server.views[0], "panel-grid")
    assert "Scatter Plot" not in panels_of(grid)


def test_the_command_publishes_what_it_has_printed(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "read_wandb", lambda project: runs() if project == "lab/p" else [])
    monkeypatch.setattr(tables, "WIDE", 60)  # an address is not broken, however narrow the output is
    main(["compare", "--wandb", "lab/p", "--by", "routing", "--publish"])
    output = capsys.readouterr().out
    assert len(server.views) == 2
    assert f"report:    {server.url}/lab/p/reports/test-accuracy-by-routing--view1\n" in output
    assert f"workspace: {server.url}/lab/p?nw=" in output


def test_a_server_that_refuses_is_one_line(server: WandbServer) -> None:
    server.status = 401
    with pytest.raises(InputError, match=r"--wandb lab/p: .*; nothing can be published, see `wandb login`"):
        publish(compare(runs()), "lab/p")


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(InputError, match=r'pip install "capsule_lightning\[wandb-report\]"'):
        publish(compare(runs()), "lab/p")


@pytest.mark.parametrize("project", ["p", "lab/", "/p", ""])
def test_a_project_needs_its_entity(project: str) -> None:
    with pytest.raises(InputError, match="expected ENTITY/PROJECT"):
        publish(compare(runs()), project)


def test_only_what_lies_in_wandb_is_published(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--publish makes a report of runs in W&B; say which by --wandb"):
        module.run(["compare", str(tmp_path), "--publish"])
