"""What a report finds out about a network that translates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from capsule_lightning.analysis.translation import cross_attention, layer_couplings
from capsule_lightning.data.tokens import BEGIN, END, PAD
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.figures.bars import bar_panels
from capsule_lightning.metrics.translation import BLEU, ChrF
from capsule_lightning.models.transformer import Transformer
from capsule_lightning.models.translation_search import translate
from capsule_lightning.report.evaluated_network import EvaluatedNetwork, Findings, how_many
from capsule_lightning.report.passages import heat_table, sentences
from capsule_lightning.report.pictures import Picture, png
from capsule_lightning.tasks.translation import TranslationTask

GROUPS = 5  # of sentences of like length
SHOWN = 8  # best, and worst ones
ATTENDED = 3  # sentences whose attention is drawn, of the shortest third
LONGEST = 24  # most pieces of their translations
ROUTED = 64  # sentences whose couplings are averaged


class Translated(NamedTuple):
    """A sentence and its translation.

    Attributes:
        source, found, reference: the texts; what the network says is ``found``.
        ids, said: ids of source and of what the network says, with `END` and without padding.
    """

    source: str
    found: str
    reference: str
    ids: Tensor
    said: Tensor

    @property
    def words(self) -> int:
        """Words of the source."""
        return len(self.source.split())


@torch.no_grad()
def of_translations(about: EvaluatedNetwork) -> Findings:
    """Look at a network that translates; see `Findings`."""
    task, data = about.task, about.data
    assert isinstance(task, TranslationTask)
    assert isinstance(data, TranslationDataModule)
    pairs, rows = data.pairs("test"), []
    for batch in about.batches():
        found = translate(task.net, batch.source, task.beam)
        for place, ids, said in zip(batch.indices.tolist(), batch.source, found, strict=True):
            text = data.said(said) if pairs.sources[place].strip() else ""
            row = Translated(pairs.sources[place], text, pairs.targets[place], ids[ids != PAD], said[said != PAD])
            rows.append(row)
    texts = [row.found for row in rows], [row.reference for row in rows]
    facts = how_many(about, len(rows), about.what)
    for name, metric in (("bleu", BLEU()), ("chrf", ChrF())):
        metric.update(*texts)
        facts |= {f"test {name}": f"{float(metric.compute()):.2f}", f"counted as {name}": metric.signature}
    facts["search"] = "the most likely word each time" if task.beam == 1 else f"beam of {task.beam}"
    columns, groups = by_length(rows)
    pictures = [
        length_picture(columns, groups),
        *extremes(rows, ChrF().of_each(*texts)),
        *attention(task.net, rows, data),
        *couplings(task.net, rows),
    ]
    return Findings(facts, pictures, "Numbers by length of the source", columns, groups)


def by_length(rows: Sequence[Translated]) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Return names of what is known of sentences of like length, and the numbers by the words that these have."""
    ordered = sorted(rows, key=lambda row: row.words)
    ends = sorted({ordered[(n * len(ordered) - 1) // GROUPS].words for n in range(1, GROUPS + 1)})
    groups, first = [], ordered[0].words
    for end in ends:
        some = [row for row in ordered if first <= row.words <= end]
        texts = [row.found for row in some], [row.reference for row in some]
        bleu, chrf = BLEU(), ChrF()
        for metric in (bleu, chrf):
            metric.update(*texts)
        ratio = sum(map(len, texts[0])) / max(sum(map(len, texts[1])), 1)
        values = [float(len(some)), float(bleu.compute()), float(chrf.compute()), ratio]
        groups.append((f"{first} to {end} words" if first < end else f"{end} words", values))
        first = end + 1
    return ["sentences", "BLEU", "chrF", "characters beside the reference's"], groups


def length_picture(columns: Sequence[str], groups: Sequence[tuple[str, Sequence[float]]]) -> Picture:
    """Draw the scores by length of the source."""
    caption = (
        f"Sentences in groups of about equal number by the words of their source. {columns[3].capitalize()}: above 1 "
        "the network says more than people did, below 1 less."
    )
    drawn = {name: [values[n] for _, values in groups] for n, name in enumerate(columns) if n}
    figure = bar_panels(drawn, [name for name, _ in groups], "Scores by length of the source")
    return Picture("Short and long sentences", caption, [png(figure)])


def extremes(rows: Sequence[Translated], scores: Sequence[float]) -> Iterator[Picture]:
    """Give the sentences with the lowest and with the highest score."""
    order = sorted(range(len(rows)), key=lambda n: scores[n])
    for heading, chosen in (("Worst sentences", order[:SHOWN]), ("Best sentences", order[::-1][:SHOWN])):
        markup = "".join(
            sentences(
                f"chrF {scores[n]:.1f}",
                {"source": rows[n].source, "network": rows[n].found, "people": rows[n].reference},
            )
            for n in chosen
        )
        yield Picture(heading, "By chrF of each sentence alone.", [], markup)


def attention(net: object, rows: Sequence[Translated], data: TranslationDataModule) -> Iterator[Picture]:
    """Draw which words of the source the decoder looks at; nothing of a network that is no `Transformer`."""
    if not isinstance(net, Transformer):
        return
    some = sorted((row for row in rows if row.source.strip()), key=lambda row: len(row.ids))
    some, tables = some[: max(len(some) // 3, ATTENDED)], []
    for row in some[:: -(-len(some) // ATTENDED)] if some else []:
        seen = cross_attention(net, row.ids.unsqueeze(0), begun(row.said[:LONGEST]))[0]
        source, said = ([piece(data, number) for number in ids.tolist()] for ids in (row.ids, row.said[:LONGEST]))
        tables.append(heat_table(seen.tolist(), said, source, row.source))
    if tables:
        caption = (
            "Each row is a piece of the translation, and each column one of the source: how much the top layer of the "
            "decoder looks at it as it chooses that piece, the mean over its heads."
        )
        yield Picture("Where the decoder looks", caption, [], "".join(tables))


def couplings(net: object, rows: Sequence[Translated]) -> Iterator[Picture]:
    """Draw how the layers are divided among the parents; nothing if they are not routed."""
    if not isinstance(net, Transformer):
        return
    found = [layer_couplings(net, row.ids.unsqueeze(0), begun(row.said)) for row in rows[:ROUTED] if len(row.said)]
    tables = []
    for side in found[0] if found else ():
        mean = torch.stack([each[side] for each in found]).mean(dim=0)
        layers, parents = ([f"{n + 1}" for n in range(count)] for count in mean.shape)
        tables.append(heat_table(mean.tolist(), [f"layer {n}" for n in layers], parents, side))
    if tables:
        caption = (
            "Each row is a layer, and each column a parent capsule: the coupling coefficient of the layer's states, "
            f"the mean over the words of {len(found)} sentences. Alike rows: no layer is preferred."
        )
        yield Picture("How layers are put together", caption, [], "".join(tables))


def begun(said: Tensor) -> Tensor:
    """Return what the decoder is given to say ``(T)``: ``(1, T)``, from `BEGIN` on."""
    return torch.cat([said.new_tensor([BEGIN]), said[:-1]]).unsqueeze(0)


def piece(data: TranslationDataModule, number: int) -> str:
    """Return what an id stands for."""
    return "(end)" if number == END else data.said(torch.tensor([number])) or "(unknown)"
