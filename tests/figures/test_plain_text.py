"""Names of classes in pictures: as they are written, whatever they are."""

import pytest
import torch
from matplotlib.figure import Figure

from capsule_lightning.figures.animation import pixels
from capsule_lightning.figures.confusion import confusion_figure
from capsule_lightning.figures.learning_curves import learning_curves_figure
from capsule_lightning.figures.lengths import length_figure
from capsule_lightning.figures.plain_text import PlainTextFigure

NAMES = [r"$\frac$", "$a$", "$$", r"\$x$y", "a_b^c", r"$\nosuchthing{$"]
"""The first, the third and the last are formulas that matplotlib cannot read; the second is one that it would draw."""


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_drawn(name):
    figure = PlainTextFigure(figsize=(2, 1))
    axis = figure.subplots()
    axis.set_title(name)
    axis.set_xticks([0], [name])
    axis.text(0, 0, name)
    axis.legend([axis.plot([0, 1])[0]], [name])
    assert pixels(figure).shape == (90, 180, 3)


def test_a_dollar_sign_is_drawn_as_one():
    plain, formula = (make(figsize=(2, 1)) for make in (PlainTextFigure, Figure))
    for figure in (plain, formula):
        figure.text(0.1, 0.5, "$a$")
    assert (pixels(plain) != pixels(formula)).any()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: confusion_figure(torch.eye(len(NAMES)).long(), NAMES, NAMES[0]),
        lambda: length_figure(torch.rand(8, len(NAMES)), torch.arange(8) % len(NAMES), NAMES, NAMES[0]),
        lambda: learning_curves_figure({name: [{0: 0.1, 1: 0.2}] for name in NAMES}, "val/accuracy"),
    ],
    ids=["confusion", "lengths", "learning-curves"],
)
def test_figures_take_every_name(draw):
    assert pixels(draw()).std() > 0
