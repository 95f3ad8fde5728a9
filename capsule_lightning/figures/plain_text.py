"""Figures whose texts are drawn as they are written."""

from __future__ import annotations

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from typing_extensions import override


class PlainTextFigure(Figure):
    r"""A figure in which a dollar sign is one: a class may be called ``$\frac$``, which is no formula."""

    @override
    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)
