"""Sentences with relations that are made of templates: no language of people, but a task that needs no download."""

from __future__ import annotations

import random
from typing import NamedTuple

from capsule_lightning.data.marked_sentences import MarkedSentence
from capsule_lightning.data.relation_files import DIRECTIONS, OTHER
from capsule_lightning.data.relations import RelationDataModule
from capsule_lightning.errors import require

VERBS = {
    "Cause-Effect": ("caused", "triggered", "provoked", "induced", "produced"),
    "Component-Whole": ("completed", "formed", "composed", "constituted", "crowned"),
    "Content-Container": ("filled", "occupied", "packed", "crowded", "stuffed"),
    "Instrument-Agency": ("served", "equipped", "armed", "assisted", "supported"),
    "Message-Topic": ("described", "discussed", "explained", "covered", "mentioned"),
}
OTHERS = ("passed", "resembled", "followed", "touched", "preceded", "matched")
FORMS = (
    "the {a} {verb} the {b}",
    "the {b} was {verb} by the {a}",
    "the {b} that the {a} {verb}",
    "it was the {a} that {verb} the {b}",
)
NOUNS = (
    "storm", "river", "engine", "letter", "garden", "bridge", "clock", "window", "mirror", "basket", "report",
    "village", "hammer", "lamp", "song", "wheel", "barrel", "castle", "forest", "journal", "ladder", "market",
    "needle", "ocean", "painter", "pocket", "quarry", "ribbon", "sailor", "temple", "valley", "wagon", "anchor",
    "blanket", "candle", "doctor", "feather", "harbor", "island", "jacket",
)  # fmt: skip
LINKS = ("while", "because", "after", "and")


class Clause(NamedTuple):
    """A relation as a template says it.

    Attributes:
        relation: its name; `OTHER` for none.
        verb: its verb.
        form: of `FORMS`.
    """

    relation: str
    verb: str
    form: str


class TemplateRelationsDataModule(RelationDataModule):
    """Sentences of two clauses made of templates; the entities of one of the clauses are marked.

    Five relations in both directions, and ``Other``. Any noun may stand in any place and the other clause has a
    relation of its own, so that only verb, form, and where the entities are tell a relation. Test sentences use verbs
    in forms that no sentence to train on has together. This shows that a network reads entities and order of words,
    and nothing about the language of people. `RelationDataModule` describes the arguments that are not listed.

    Args:
        size: sentences, a fourth of them to test on.

    Raises:
        InputError: ``size`` is below 100, or what `RelationDataModule` refuses.
    """

    name = "template_relations"

    def __init__(
        self,
        size: int = 4000,
        reach: int = 20,
        max_length: int = 40,
        vocabulary: str | None = None,
        by_length: bool = False,
        batch_size: int = 50,
        val_size: float | int = 0.1,
        seed: int | None = None,
        balanced: bool = False,
        texts: str | None = None,
        word_vectors: str | None = None,
    ) -> None:
        super().__init__(
            reach,
            "words",
            30000,
            1,
            max_length,
            vocabulary,
            by_length,
            None,
            0.2,
            batch_size,
            val_size,
            seed,
            balanced,
            texts,
            word_vectors,
        )
        require(size >= 100, f"size={size}: expected at least 100 sentences")
        clauses = [Clause(name, verb, form) for name, verbs in VERBS.items() for verb in verbs for form in FORMS]
        clauses += [Clause(OTHER, verb, form) for verb in OTHERS for form in FORMS]
        unseen = [each for number, each in enumerate(clauses) if (number // len(FORMS) + number) % len(FORMS) == 0]
        seen = [each for each in clauses if each not in unseen]
        names = [f"{name}{direction}" for name in VERBS for direction in DIRECTIONS]
        train, test = (
            [sentence(draw, part) for _ in range(count)]
            for part, count, draw in (
                (seen, size - size // 4, random.Random(0)),
                (unseen, size // 4, random.Random(1)),
            )
        )
        self.take_sentences(train, test, [*names, OTHER], "made of templates, the same whatever the seed")


def sentence(draw: random.Random, clauses: list[Clause]) -> MarkedSentence:
    """Return a sentence of two of these clauses, in one of which the entities are marked."""
    nouns = draw.sample(NOUNS, 4)
    relations = [*VERBS, OTHER]
    wanted = draw.choice(relations)
    told = draw.choice([each for each in clauses if each.relation == wanted])
    other = draw.choice(clauses)
    turned = draw.random() < 0.5
    numbers = (2, 1) if turned else (1, 2)
    a, b = (f"<e{number}>{noun}</e{number}>" for number, noun in zip(numbers, nouns, strict=False))
    parts = [told.form.format(a=a, b=b, verb=told.verb), other.form.format(a=nouns[2], b=nouns[3], verb=other.verb)]
    draw.shuffle(parts)
    text = f"{parts[0]} {draw.choice(LINKS)} {parts[1]}."
    return MarkedSentence(text, OTHER if wanted == OTHER else wanted + DIRECTIONS[turned])
