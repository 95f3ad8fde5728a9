"""Boxes from the XML files of Pascal VOC, one for each image.

Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010; its development kit, section 10.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from capsule_lightning.data.box_files import Annotated, Box, BoxSet, inside, number, read_bounded, require_few
from capsule_lightning.data.regular_files import kind_of
from capsule_lightning.errors import InputError, first_line, require

MOST_BYTES = 10 * 2**20
"""Bytes of the longest file that is read: a box has 300."""
_DEEPEST = 32


def read_voc(folder: Path, pictures: Path | None = None) -> BoxSet:
    """Read boxes; a file without objects is an image without any.

    Args:
        folder: has the XML files, or has them in ``Annotations``.
        pictures: folder of the images; None for ``JPEGImages`` beside ``Annotations`` if it is there, or else that of
            the XML files.

    Raises:
        InputError: names the file and the field that is missing or is something else.
    """
    annotations = folder / "Annotations" if kind_of(folder / "Annotations") == "folder" else folder
    if pictures is None:
        usual = annotations.parent / "JPEGImages"
        pictures = usual if kind_of(usual) == "folder" else annotations
    files = sorted(path for path in annotations.glob("*.xml") if not path.name.startswith("."))
    require(files, f"{annotations}: no .xml files in this folder; expected one for each image")
    return BoxSet([read_file(path, pictures) for path in files], None)


def read_file(path: Path, pictures: Path) -> Annotated:
    """Return the image and the boxes of a file.

    Left and top edge count from 1 in it, and right and bottom edge are the last pixel of the object.

    Raises:
        InputError: names the field.
    """
    root = parse_xml(read_bounded(path, MOST_BYTES, "an XML file of Pascal VOC"), path)
    require(root.tag == "annotation", f"{path}: begins with <{root.tag[:40]}>, expected <annotation>")
    image = inside(pictures, text_in(root, "filename", path), f"{path}: filename")
    size = tuple(
        int(number(text_in(root, f"size/{side}", path), f"{path}: size/{side}")) for side in ("height", "width")
    )
    require(min(size) >= 1, f"{path}: size={size[0]}x{size[1]}: expected at least 1 pixel")
    boxes = []
    for n, each in enumerate(root.findall("object")):
        source = f"{path}: object[{n}]"
        name = text_in(each, "name", source)
        require(name.isprintable(), f"{source}/name={name[:40]!r}: expected a word")
        left, top, right, bottom = (
            number(text_in(each, f"bndbox/{edge}", source), f"{source}/bndbox/{edge}")
            for edge in ("xmin", "ymin", "xmax", "ymax")
        )
        require(
            left <= right + 1 and top <= bottom + 1,
            f"{source}/bndbox={left:g}, {top:g}, {right:g}, {bottom:g}: expected xmin <= xmax and ymin <= ymax",
        )
        difficult = (each.findtext("difficult") or "0").strip()
        require(difficult in ("0", "1"), f"{source}/difficult={difficult[:20]!r}: expected 0 or 1")
        boxes.append(Box((left - 1, top - 1, right, bottom), name, difficult == "1"))
    require_few(boxes, str(path))
    return Annotated(image, boxes, (size[0], size[1]), str(path))


def text_in(element: Element, field: str, source: object) -> str:
    """Return the text of a part of an element.

    Raises:
        InputError: there is none.
    """
    text = (element.findtext(field) or "").strip()
    require(text, f"{source}: {field} is missing or empty; expected it as in Pascal VOC")
    return text


def parse_xml(content: bytes, path: Path) -> Element:
    """Return the root of an XML document that has elements and text alone.

    A document type is refused where it begins, so that nothing in it is expanded or fetched.

    Raises:
        InputError: it is not XML, has a document type, or is too deep.
    """
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise InputError(f"{path}: has elements more than {_DEEPEST} deep; expected an XML file of Pascal VOC")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:
        raise InputError(f"{path}: has a document type (DOCTYPE) or entities, which are never read; remove it")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, AssertionError, ValueError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is not valid XML ({first_line(error)}); write it again") from error
