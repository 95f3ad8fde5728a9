"""Numbers that are known of several things, such as the joints of a body, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from capsule_lightning.figures.plain_text import PlainTextFigure


def bar_panels(values: Mapping[str, Sequence[float]], names: Sequence[str], title: str) -> Figure:
    """Draw a bar for each of K things, in one panel for each number that is known of them.

    Args:
        values: K numbers by what they are, at least one kind; NaN for a thing of which it is not known.
        names: of the K things.
        title: title of the figure.

    Returns:
        The figure.
    """
    figure = PlainTextFigure(figsize=(3.2 * len(values) + 1.4, 0.24 * len(names) + 1.3), layout="constrained")
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axis, (word, numbers) in zip(panels, values.items(), strict=True):
        axis.barh(range(len(names)), numbers, color="#4292c6")
        axis.set_title(word, fontsize=9)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    return figure
