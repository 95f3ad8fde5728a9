"""The picture of `growth.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

COLORS = {"plain": "#D55E00", "fused": "#0072B2"}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw time and memory of both forms against each size, dashed what the law says.

    Args:
        found: results of `growth.py`, by what grows and by its size.
        path: the PNG to write.
    """
    figure = Figure(figsize=(4.1 * len(found), 8.2), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (what, points) in enumerate(found.items()):
        sizes, each = [int(size) for size in points], list(points.values())
        for form, color in COLORS.items():
            ms = [point[form]["ms"]["median"] for point in each]
            # the law of time has a factor, that of the largest size
            time_law = [ms[-1] * point["products"] / each[-1]["products"] for point in each]
            panels = [(ms, time_law), ([p[form]["peak_mib"] for p in each], [p[form]["law_mib"] for p in each])]
            for axis, (measured, law) in zip(axes[:, column], panels, strict=True):
                if None not in measured:
                    axis.plot(sizes, measured, "o-", color=color, linewidth=2, label=f"{form}, measured")
                axis.plot(sizes, law, "--", color=color, linewidth=1.2, label=f"{form}, law")
        first = each[0]
        fixed = ["network and convolutions" if first["side"] else "layer"]
        fixed += [] if what == "images in a batch" else [f"{first['batch_size']} images"]
        fixed += [f"{first['num_in']} children"] if what == "parent capsules" else []
        axes[0, column].set_title(", ".join(fixed), fontsize=13, loc="left")
        for axis, unit in zip(axes[:, column], ("ms", "MiB"), strict=True):
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=11)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.minorticks_off()
            axis.set_xlabel(what, fontsize=13)
            axis.set_ylabel(unit, fontsize=13)
            axis.tick_params(labelsize=11)
            axis.grid(color="0.9")
            axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=13, frameon=False
    )
    figure.suptitle(
        "A training step with B images, I children of D dimensions, J parents of E, r iterations\n"
        "time: B I J E (D + 2 r - 1) products in the forward pass\n"
        "memory, in numbers: plain B I J (5 E + 3 (2 r - 1)) + 2 I J D E + 4 B I D; "
        "fused in C with n children at a time B I J E / n + 2 I J D E + 2 B I D,\n"
        "and more than 128 parents with n examples at a time n I J (E + 3 (2 r - 1)) + 5 I J D E + 4 B I D",
        fontsize=14,
    )
    figure.savefig(path, dpi=80)
