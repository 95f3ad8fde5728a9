"""What a file or a folder says of texts, and which of them a transfer from one class to several is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from capsule_lightning.data.split_folders import Part
from capsule_lightning.errors import require


class Texts(NamedTuple):
    """What a file or a folder says of N texts.

    Attributes:
        texts: as they are.
        labels: names of the classes of each, exactly one unless ``several``.
        parts: the part that each is listed for: ``train``, ``val`` or ``test``.
        groups: the group of each; empty if there are none.
        own_parts: what the data call the texts that they list to validate or to test on, by ``val`` and ``test``.
        note: where all this is from.
        several: whether a text may have any number of classes.
        names: of the classes, if the data name them; else empty, and the labels do.
        weights: how much each counts in the loss; empty if all count the same.
    """

    texts: Sequence[str]
    labels: Sequence[tuple[str, ...]]
    parts: Sequence[Part]
    groups: Sequence[str] = ()
    own_parts: Mapping[Part, str] = {}
    note: str = ""
    several: bool = False
    names: Sequence[str] = ()
    weights: Sequence[float] = ()

    def some(self, places: Sequence[int]) -> Texts:
        """Return those at some places."""
        kept = {name: [getattr(self, name)[place] for place in places] for name in ("texts", "labels", "parts")}
        more = {
            name: [each[place] for place in places] for name in ("groups", "weights") if (each := getattr(self, name))
        }
        return self._replace(**kept, **more)  # type: ignore[arg-type]


def transferred(found: Texts, title: str) -> Texts:
    """Return texts of one class to train and validate on, and texts of several to test on.

    If some are listed to test on, those of several among them are tested on, or else all texts of several are. Texts
    that have no class are left out, and so are those to train on whose group has one that is tested on.

    Args:
        found: texts of any number of classes.
        title: what they are called, for messages.

    Raises:
        InputError: each text has one class, or no text is left on one side.

    Source: Zhao et al. 2018 (arXiv 1804.00538): Reuters, from documents of one topic to those of several.
    """
    require(
        found.several,
        "test_on_several=true: each text has one class here; say how several are written, such as "
        "--data.label_separator '|', or set it to false",
    )
    listed = "test" in found.own_parts
    counts = [len(set(labels)) for labels in found.labels]
    test = [n for n, count in enumerate(counts) if count > 1 and (found.parts[n] == "test" or not listed)]
    tested = {found.groups[n] for n in test} if found.groups else set()
    alone = [n for n, count in enumerate(counts) if count == 1 and found.parts[n] != "test"]
    train = [n for n in alone if not (tested and found.groups[n] in tested)]
    require(
        test and train,
        f"{title}: {len(train):,} texts of one class to train on and {len(test):,} of several to test on; "
        "test_on_several=true needs both",
    )
    parts: list[Part] = [*(found.parts[n] for n in train), *["test"] * len(test)]  # type: ignore[list-item]
    note = f"{found.note}; {len(found.texts) - len(train) - len(test):,} are left out (--data.test_on_several true)"
    if tested:
        note += f", {len(alone) - len(train):,} of them of one class and of a group that is tested on"
    own = {**found.own_parts, "test": "those of several classes"}
    return found.some([*train, *test])._replace(parts=parts, own_parts=own, note=note)
