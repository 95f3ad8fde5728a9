"""What a report finds out about a network that names the classes of texts, or the relations of sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from capsule_lightning.analysis.intervals import wilson_interval
from capsule_lightning.data.label_sets import present
from capsule_lightning.data.relations import RelationDataModule
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.tokens import SPECIAL
from capsule_lightning.figures.confusion import confusion_figure
from capsule_lightning.figures.lengths import dead_capsules, length_figure
from capsule_lightning.figures.precision_recall import precision_recall_figure
from capsule_lightning.metrics.relations import HeldOutFacts
from capsule_lightning.models.words import WordNet
from capsule_lightning.report.evaluated_network import EvaluatedNetwork, Findings, how_many, told
from capsule_lightning.report.measured import spread_over_classes
from capsule_lightning.report.passages import Words, passage, words_html
from capsule_lightning.report.pictures import Picture, png
from capsule_lightning.tasks.image_classification import ImageClassificationTask
from capsule_lightning.tasks.relations import RelationTask

MOST = 25_000  # test texts that are examined
SHOWN = 10  # mistakes, and right ones
NAMED = 3  # classes of one text whose words are colored
VOTING = 2_000  # texts whose words' votes are averaged
LISTED = 12  # words of a class
OFTEN = 3  # how often a listed word must occur
CLASSES = 30  # whose words are listed


class Answers(NamedTuple):
    """What a network says of N test texts.

    Attributes:
        inputs: the N inputs of the network.
        lengths: ``(N, J)``, activations of the class capsules.
        truth, said: ``(N, J)`` bool, the true and the predicted classes.
    """

    inputs: Sequence[Tensor]
    lengths: Tensor
    truth: Tensor
    said: Tensor

    @property
    def right(self) -> Tensor:
        """``(N)`` bool, of which texts all classes are named and no other."""
        return (self.truth == self.said).all(dim=1)


def of_texts(about: EvaluatedNetwork) -> Findings:
    """Look at a network that names classes of texts; see `Findings`."""
    task, data, names = about.task, about.data, about.names
    assert isinstance(task, ImageClassificationTask)
    assert isinstance(data, TextDataModule)
    assert isinstance(task.net, WordNet)
    metrics, votes = task.metrics("test"), WordVotes(task.net)
    facts, curve = HeldOutFacts(*facts_of(task, names)), isinstance(data, RelationDataModule)
    inputs: list[Tensor] = []
    lengths: list[Tensor] = []
    truth: list[Tensor] = []
    said: list[Tensor] = []
    for batch, output, prediction in about.seen(MOST):
        for metric in metrics.values():
            metric.update(*task.compared(output, batch))
        if len(inputs) < VOTING:
            votes.add(batch[0])
        if curve:
            bags = batch.bags if isinstance(task, RelationTask) else batch.indices
            facts.update(prediction.activations, batch.labels, bags)
        inputs += [*batch[0]]
        lengths.append(prediction.activations.float())
        for each, labels in ((truth, batch.labels), (said, prediction.classes)):
            each.append(present(labels.reshape(len(labels), -1), len(names)).bool())
    answers = Answers(inputs, *(torch.cat(each) for each in (lengths, truth, said)))
    right, count = int(answers.right.sum()), len(inputs)
    low, high = wilson_interval(right, count)
    told_facts = {
        **how_many(about, count, about.what, MOST),
        **told(metrics),
        "right": f"{right:,} of {count:,}, 95 % interval {100 * low:.1f} to {100 * high:.1f} %",
    }
    if isinstance(task, RelationTask):
        told_facts |= {f"test fact_{name}": f"{float(value):.4g}" for name, value in facts.compute().items()}
    dead = dead_capsules(answers.lengths).tolist()
    told_facts["dead capsules"] = ", ".join(name for name, each in zip(names, dead, strict=True) if each) or "none"
    columns, rows = by_class(answers, names)
    pictures = [
        *examples(answers, data, task.net, names),
        *votes.picture(data, names),
        *([fact_picture(facts, isinstance(task, RelationTask))] if curve else []),
        length_picture(answers, names),
        *confusion(answers, names, task.num_labels == 1),
    ]
    return Findings(told_facts, pictures, "Numbers by class", columns, rows)


def facts_of(task: ImageClassificationTask, names: Sequence[str]) -> tuple[int, Sequence[int]]:
    """Return the class that is no fact, -1 for none, and of how many of the highest facts the precision is told."""
    if not isinstance(task, RelationTask):
        return -1, ()
    none = names.index(task.no_relation) if task.no_relation in names else -1
    metric = task.facts["test"]
    assert isinstance(metric, HeldOutFacts)
    return none, metric.at


def by_class(answers: Answers, names: Sequence[str]) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Return what is known of each class: names of the numbers, and the numbers by the class's name."""
    truth, said, lengths = answers.truth.double(), answers.said.double(), answers.lengths.double()
    there, named, both = truth.sum(dim=0), said.sum(dim=0), (truth * said).sum(dim=0)
    columns = {
        "there": there,
        "precision": both / named,
        "recall": both / there,
        "F1": 2 * both / (there + named),
        "length where it is there": (lengths * truth).sum(dim=0) / there,
        "length elsewhere": (lengths * (1 - truth)).sum(dim=0) / (1 - truth).sum(dim=0),
    }
    return [*columns], [*zip(names, torch.stack([*columns.values()], dim=1).tolist(), strict=True)]


def examples(answers: Answers, data: TextDataModule, net: WordNet, names: Sequence[str]) -> Iterator[Picture]:
    """Give texts with their words: those that the network is most wrong about, and right ones of each class."""
    off = (answers.lengths - answers.truth.float()).abs().amax(dim=1)  # how far the capsule is that is farthest off
    wrong = (~answers.right).nonzero()[:, 0]
    right = answers.right.nonzero()[:, 0]
    wrong = wrong[off[wrong].argsort(descending=True)][:SHOWN]
    right = right[off[right].argsort()]
    right = right[spread_over_classes(answers.truth[right].int().argmax(dim=1), SHOWN)] if len(right) else right
    colors = (
        "Red words speak for the class more than for the average class, blue ones less: the part of the votes of the "
        "capsules that see a word which points the way of the class capsule, times the coupling. Of a network without "
        "capsules it is what the word adds to the logit."
    )
    texts = data.texts_of("test")
    for heading, chosen, caption in (
        ("Most confident mistakes", wrong, "Texts whose capsules are farthest from the truth."),
        ("Right ones", right, "Of each class those whose capsules are nearest to the truth."),
    ):
        if len(chosen):
            markup = "".join(example(answers, texts[n], n, data, net, names) for n in chosen.tolist())
            yield Picture(heading, f"{caption} {colors}", [], markup)


@torch.no_grad()
def example(answers: Answers, text: str, number: int, data: TextDataModule, net: WordNet, names: Sequence[str]) -> str:
    """Return a text as HTML, its words colored for the predicted class, and for the true one if that is another."""
    row, lengths = answers.inputs[number], answers.lengths[number].tolist()
    truth, said = (each[number].nonzero()[:, 0].tolist() for each in (answers.truth, answers.said))
    pieces, entities = data.pieces(text), []
    if row.ndim == 2:  # a sentence with two entities
        zero = net.in_shape[1] // 2
        entities = [1 * int(one == zero) or 2 * int(two == zero) for one, two in row[1:, : len(pieces)].T.tolist()]
    votes = speaking_for(net, row.unsqueeze(0))
    classes = list(dict.fromkeys([*said, *truth]))[: NAMED if len(names) > 2 else 1]
    if votes is None or not classes:
        texts = [Words(pieces, (), entities)]
    else:
        texts = [Words(pieces, votes[0, : len(pieces), j].tolist(), entities, f"{names[j]}:") for j in classes]
    told_truth = ", ".join(names[j] for j in truth) or "no class"
    told_said = ", ".join(f"{names[j]} ({lengths[j]:.2f})" for j in said) or "no class"
    heading = told_said if truth == said else f"{told_truth}, taken for {told_said}"
    return passage(heading, texts)


def speaking_for(net: WordNet, tokens: Tensor) -> Tensor | None:
    """Return how much more each word adds to each class than to the average class, ``(B, T, J)``; None if unknown."""
    votes = net.word_votes(tokens)
    return None if votes is None else votes - votes.mean(dim=-1, keepdim=True)


class WordVotes:
    """How much each word of a vocabulary speaks for each class, over many texts.

    Args:
        net: the network.
    """

    def __init__(self, net: WordNet) -> None:
        self.net, size = net, net.in_shape[0]
        self.sums, self.counts = torch.zeros(size, net.num_classes), torch.zeros(size)

    @torch.no_grad()
    def add(self, tokens: Tensor) -> None:
        """Count the words of texts, inputs of the network."""
        votes = speaking_for(self.net, tokens)
        if votes is not None:
            ids = (tokens if tokens.ndim == 2 else tokens[:, 0]).flatten()
            self.sums.index_add_(0, ids, votes.flatten(0, 1).float())
            self.counts.index_add_(0, ids, torch.ones(len(ids)))

    def picture(self, data: TextDataModule, names: Sequence[str]) -> Iterator[Picture]:
        """List, for each class, the words that speak most for it; nothing if the network does not tell."""
        known = self.counts >= OFTEN
        known[: len(SPECIAL)] = False
        if not bool(known.any()):
            return
        means = torch.where(known.unsqueeze(1), self.sums / self.counts.clamp_min(1).unsqueeze(1), -torch.inf)
        best = means.topk(min(LISTED, int(known.sum())), dim=0)  # (LISTED, J)
        most = float(best.values[best.values.isfinite()].max())
        lines = []
        for j, name in [*enumerate(names)][:CLASSES]:
            pairs = [*zip(best.indices[:, j].tolist(), best.values[:, j].tolist(), strict=True)]
            words = [(data.vocabulary.decode([number]).strip(), value) for number, value in pairs if value > 0]
            found = Words([word for word, _ in words], [value for _, value in words], (), f"{name}:")
            lines.append(words_html(found, most))
        left_out = f" The first {CLASSES} of {len(names)} classes." if len(names) > CLASSES else ""
        caption = (
            "The words that speak most for each class: the mean over all places in the test texts that have the word, "
            f"of those that occur at least {OFTEN} times.{left_out}"
        )
        yield Picture("Which words vote for what", caption, [], f'<div class="passage">{"".join(lines)}</div>')


def fact_picture(facts: HeldOutFacts, of_pairs: bool) -> Picture:
    """Draw precision over recall."""
    precision, recall = facts.curve()
    right = recall.diff(prepend=recall.new_zeros(1)).nonzero()[:, 0]
    what = (
        "pairs of entities with a relation, each by the longest capsule that the relation has in a sentence of the pair"
        if of_pairs
        else "sentences with a relation, by the length of its capsule"
    )
    caption = f"From left to right more and more {what} are taken for facts, the longest first."
    figure = precision_recall_figure(precision[right], recall[right], f"{len(right):,} true facts")
    return Picture("Precision and recall", caption, [png(figure)])


def length_picture(answers: Answers, names: Sequence[str]) -> Picture:
    """Draw the mean length of each capsule by class, and its greatest length."""
    rows, labels = answers.truth.nonzero().T
    caption = (
        "Left: the mean length of each class capsule for texts of each class; the diagonal should be near 1, the rest "
        "near 0. Right: the greatest length of each; one below the dotted line is dead."
    )
    figure = length_figure(answers.lengths[rows], labels, names, "Lengths of the class capsules")
    return Picture("How long capsules are", caption, [png(figure)])


def confusion(answers: Answers, names: Sequence[str], of_one: bool) -> Iterator[Picture]:
    """Draw the confusion matrix of texts of one class each."""
    if of_one:
        matrix = answers.truth.long().T @ answers.said.long()
        caption = "Rows are the true classes, columns the predicted ones."
        yield Picture("What is taken for what", caption, [png(confusion_figure(matrix, names, "Confusion"))])
