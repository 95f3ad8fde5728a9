"""Publish a comparison as a W&B report and saved workspace: its table, its verdict and panels by group.

Panels select runs by their ids, group by group, and not by keys of their configurations: those keys have dots, which a
filter of W&B may take for steps into a mapping.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from rich.table import Table

from capsule_lightning.comparison.groups import Comparison, Group
from capsule_lightning.comparison.tables import table
from capsule_lightning.comparison.verdict import verdict
from capsule_lightning.errors import InputError, require

STEP = "trainer/global_step"
WIDTH = 24
"""Width of W&B's grid of panels, in columns."""
HEIGHT = 8
PICTURES = ("test/reconstructions", "test/wrong", "test/confusion")


class Published(NamedTuple):
    """Addresses of the report and the workspace."""

    report: str
    workspace: str


def publish(comparison: Comparison, project: str) -> Published:
    """Create a report and a saved view of the workspace; each call creates new ones.

    Args:
        comparison: runs of the project; their names are their ids.
        project: ``entity/project``.

    Raises:
        InputError: the project lacks its entity, wandb-workspaces is not installed, there is no API key or no network.
    """
    entity, _, name = project.rpartition("/")
    require(entity and name, f"--wandb {project}: expected ENTITY/PROJECT, where the report is to be published")
    try:
        reports, workspaces = (import_module(f"wandb_workspaces.{part}") for part in ("reports.v2", "workspaces"))
    except ImportError as error:
        raise InputError(
            f'--publish needs wandb-workspaces ({error}): pip install "capsule_lightning[wandb-report]"'
        ) from error
    title = (
        f"{comparison.metric.replace('/', ' ')} by {', '.join(comparison.names) or 'run'}"  # it ends up in addresses
    )
    counts = f"{sum(len(group.runs) for group in comparison.groups)} runs in {len(comparison.groups)} groups"
    try:
        report = reports.Report(
            entity=entity,
            project=name,
            title=title,
            description=counts,
            width="fluid",
            blocks=[
                reports.MarkdownBlock(text(comparison)),
                reports.PanelGrid(
                    runsets=[runset(reports, comparison, group, entity, name) for group in comparison.groups],
                    panels=panels(reports, comparison),
                ),
            ],
        ).save()
        view = workspaces.Workspace(
            entity=entity,
            project=name,
            name=title,
            sections=[
                workspaces.Section(name="Comparison", panels=panels(reports, comparison), is_open=True, pinned=True)
            ],
            runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Metric("Group")]),
            auto_generate_panels=True,
        ).save()
    except Exception as error:  # wandb raises it, too, if nobody has logged in
        reason = " ".join(str(error).split())
        raise InputError(f"--wandb {project}: {reason}; nothing can be published, see `wandb login`") from error
    return Published(str(report.url), str(view.url))


def text(comparison: Comparison) -> str:
    """Return the table and the verdict in Markdown."""
    parts = [markdown(table(comparison)), verdict(comparison)]
    if comparison.left_out:
        parts.append(f"Left out: {', '.join(comparison.left_out)}.")
    return "\n\n".join(parts)


def markdown(made: Table) -> str:
    r"""Return a table in Markdown.

    Example:
        >>> made = Table("a", "b")
        >>> made.add_row("1", "x|y")
        >>> markdown(made)
        '| a | b |\n| --- | --- |\n| 1 | x\\|y |'
    """
    heads = [str(column.header) for column in made.columns]
    rows = [heads, ["---"] * len(heads), *zip(*(map(str, column.cells) for column in made.columns), strict=True)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def runset(reports: ModuleType, comparison: Comparison, group: Group, entity: str, project: str) -> Any:
    """Return the runs of a group, to be drawn as their mean and its spread."""
    ids = [run.name for run in group.runs]
    return reports.Runset(
        entity=entity,
        project=project,
        name=f"{comparison.label(group)} ({len(ids)})",
        filters=f"Metric('ID') in {ids!r}",
        groupby=["Group"],
    )


def panels(reports: ModuleType, comparison: Comparison) -> list[Any]:
    """Return the panels: learning curves, the metric by group and by number of parameters, pictures of the test."""
    known = {metric for group in comparison.groups for run in group.runs for metric in run.history}
    name = comparison.metric.split("/", 1)[-1]
    curves = [metric for metric in (f"val/{name}", f"train/{name}", "val/loss", "train/loss") if metric in known]
    spread = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    made = [
        reports.LinePlot(title=metric, x=STEP, y=[metric], **spread, layout=at(reports, number))
        for number, metric in enumerate(dict.fromkeys(curves))
    ]
    bars = {"title": comparison.metric, "metrics": [comparison.metric], **spread}
    made.append(reports.BarPlot(**bars, layout=at(reports, len(made))))
    if "parameters" in known:
        axes = {"x": reports.SummaryMetric("parameters"), "y": reports.SummaryMetric(comparison.metric)}
        scatter = reports.ScatterPlot(title=f"{comparison.metric} by parameters", **axes, layout=at(reports, len(made)))
        made.append(scatter)
    made.append(reports.MediaBrowser(title="test images", media_keys=list(PICTURES), layout=at(reports, len(made))))
    return made


def at(reports: ModuleType, number: int) -> Any:
    """Return the place of a panel in the grid, two in a row."""
    row, column = divmod(number, 2)
    return reports.Layout(x=column * WIDTH // 2, y=row * HEIGHT, w=WIDTH // 2, h=HEIGHT)
