"""Trees of image files: order, classes, links, and what only has the name of an image."""

import os
import shutil
import socket
import tracemalloc
from pathlib import Path

import pytest

from capsule_lightning.data.image_trees import class_tree, find_images, fingerprint, image_paths
from capsule_lightning.errors import InputError


def test_classes_are_numbered_in_order_of_their_names(tmp_path, write_tree):
    write_tree(tmp_path, ["b", "a", "c"])
    tree = class_tree(tmp_path)
    assert tree.class_names == ["a", "b", "c"]
    assert tree.labels == [0, 0, 1, 1, 2, 2]
    assert [path.parent.name for path in tree.paths] == ["a", "a", "b", "b", "c", "c"]


def test_classes_that_are_numbers_are_in_their_order(tmp_path, write_tree):
    write_tree(tmp_path, ["10", "2", "1", "-3"], count=1)
    assert class_tree(tmp_path).class_names == ["-3", "1", "2", "10"]
    write_tree(tmp_path, ["b"], count=1)
    assert class_tree(tmp_path).class_names == ["-3", "1", "10", "2", "b"]


def test_classes_are_numbered_as_given(tmp_path, write_tree):
    write_tree(tmp_path, ["b", "a", "c"])
    tree = class_tree(tmp_path, ("c", "a", "b"))
    assert tree.class_names == ["c", "a", "b"]
    assert [path.parent.name for path in tree.paths] == ["c", "c", "a", "a", "b", "b"]
    assert tree.labels == [0, 0, 1, 1, 2, 2]


def test_other_class_names_are_named(tmp_path, write_tree):
    write_tree(tmp_path, ["cat", "dgo"])
    with pytest.raises(InputError, match=r"expected the class folders cat, dog; differing: dgo, dog$"):
        class_tree(tmp_path, ("cat", "dog"))


def test_an_empty_class_folder_is_named(tmp_path, write_tree):
    write_tree(tmp_path, ["a", "b"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"/c: the class folder is empty"):
        class_tree(tmp_path)


def test_a_folder_without_class_folders_is_named(tmp_path, write_image):
    write_image(tmp_path / "a.png", (2, 2))
    with pytest.raises(InputError, match=r"no class folders; expected .*/<class>/<image>"):
        class_tree(tmp_path)


def test_files_that_are_no_images_are_listed(tmp_path, write_tree):
    write_tree(tmp_path, ["a", "b"])
    for name in ("a/notes.txt", "b/photo.heic", "readme", "lost.png", "a/.hidden.png", ".DS_Store"):
        (tmp_path / name).touch()
    tree = class_tree(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tree.others) == [
        "a/notes.txt",
        "b/photo.heic",
        "lost.png",
        "readme",
    ]
    assert len(tree.paths) == 4


def test_classes_that_hold_only_folders_are_refused_unless_they_are_given(tmp_path, write_tree):
    for fold in ("fold1", "fold2"):
        write_tree(tmp_path / fold, ["cat", "dog"])
    with pytest.raises(InputError, match=r"fold1, fold2 hold folders and no images.*split_folders false"):
        class_tree(tmp_path, nested=False)
    assert class_tree(tmp_path).labels == [0] * 4 + [1] * 4
    (tmp_path / "fold1/0.png").write_bytes((tmp_path / "fold1/cat/0.png").read_bytes())
    assert len(class_tree(tmp_path, nested=False).paths) == 9


# Links.


def test_links_to_files_and_folders_are_followed(tmp_path, write_tree):
    write_tree(tmp_path / "elsewhere", ["more", "x"], count=3)
    write_tree(tmp_path / "tree", ["a", "b"])
    (tmp_path / "tree/a/linked").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "tree/b/linked.png").symlink_to(tmp_path / "elsewhere/x/0.png")
    (tmp_path / "tree/c").symlink_to(tmp_path / "elsewhere/x", target_is_directory=True)
    tree = class_tree(tmp_path / "tree")
    assert [tree.labels.count(n) for n in range(3)] == [5, 3, 3]


@pytest.mark.parametrize("target", [".", "..", "../b"], ids=["itself", "above", "another-class"])
def test_a_link_to_what_is_read_already_is_named(tmp_path, write_tree, target):
    write_tree(tmp_path, ["a", "b"])
    (tmp_path / "a/link").symlink_to(target)
    with pytest.raises(InputError, match="whose images are read already"):
        class_tree(tmp_path)


def test_links_that_multiply_are_walked_once(tmp_path, write_image):
    """Thirty folders, each with two links to the next: a billion paths to one image."""
    for n in range(30):
        (tmp_path / f"{n}").mkdir()
        for name in ("x", "y"):
            (tmp_path / f"{n}" / name).symlink_to(tmp_path / f"{n + 1}")
    write_image(tmp_path / "30/a.png", (2, 2))
    found = find_images(tmp_path / "0")
    assert len(found.images) == 1
    assert len(found.odd) == 30


# What only has the name of an image.


def pipe(path):
    os.mkfifo(path)


def listening(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may be short alone
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES = {
    "pipe": pipe,
    "socket": listening,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link-to-nothing": lambda path: path.symlink_to("gone.png"),
    "link-to-itself": lambda path: path.symlink_to(path.name),
    "link-to-pipe": lambda path: (
        os.mkfifo(path.with_suffix(".fifo")),
        path.symlink_to(path.with_suffix(".fifo").name),
    ),
}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_is_named_and_never_opened(tmp_path, write_tree, make):
    write_tree(tmp_path, ["a", "b"])
    make(tmp_path / "a" / "z.png")
    with pytest.raises(InputError, match=r"a/z\.png: (is a \w+, not an image file|cannot be read \(.*\)); remove it"):
        class_tree(tmp_path)
    tree = class_tree(tmp_path, skip_odd=True)
    assert len(tree.paths) == 4
    assert [each.path.name for each in tree.odd] == ["z.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, write_tree, monkeypatch):
    write_tree(tmp_path, ["a", "b"])
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"/b: cannot be read \(Permission denied\)"):
        class_tree(tmp_path)


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "a\nb", "tab\tbed", "\x1b[2J"], ids=ascii)
def test_names_of_classes_can_be_printed(tmp_path, write_tree, name):
    write_tree(tmp_path, [name, "z"])
    tree = class_tree(tmp_path)
    assert all(each.isprintable() for each in tree.class_names)
    assert class_tree(tmp_path, tree.class_names).labels == tree.labels
    assert len(fingerprint(tree.paths, tmp_path)) == 64


def test_names_that_look_the_same_are_refused(tmp_path, write_tree):
    write_tree(tmp_path, ["a\nb", r"a\nb"])
    with pytest.raises(InputError, match="look the same"):
        class_tree(tmp_path)


# Fingerprints.


@pytest.fixture
def tree(tmp_path, write_tree):
    write_tree(tmp_path / "tree", ["a", "b"])
    return tmp_path / "tree"


def resize(path):
    times = path.stat()
    path.write_bytes(path.read_bytes() + b"0")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        resize,
        lambda path: os.utime(path, ns=(0, 0)),
        lambda path: path.rename(path.with_name("5.png")),
        lambda path: path.unlink(),
        lambda path: shutil.copy2(path, path.with_name("5.png")),
    ],
    ids=["size", "time", "name", "less", "more"],
)
def test_the_fingerprint_changes_with_any_file(tree, change):
    before = fingerprint(image_paths(tree), tree)
    change(tree / "b" / "1.png")
    assert fingerprint(image_paths(tree), tree) != before


def test_the_fingerprint_does_not_change_with_the_place(tree, tmp_path):
    before = fingerprint(image_paths(tree), tree)
    shutil.move(tree, tmp_path / "there")
    assert fingerprint(image_paths(tmp_path / "there"), tmp_path / "there") == before


def test_files_are_in_the_order_of_their_paths(tmp_path):
    for name in ("b/x.png", "b-c.png", "b.d/y.png", "b/a/z.png", "b0.png", "ä.png"):
        path = tmp_path / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    paths = image_paths(tmp_path / "cat")
    assert len(paths) == 6
    assert paths == sorted(paths)


def test_a_tree_is_found_from_within(tmp_path, monkeypatch, write_tree):
    write_tree(tmp_path / "photos", ["a", "b"], count=1)
    monkeypatch.chdir(tmp_path / "photos")
    paths = class_tree(Path()).paths
    assert list(paths) == [Path("a/0.png"), Path("b/0.png")]
    assert list(paths.below(Path()).texts()) == ["a/0.png", "b/0.png"]
    monkeypatch.chdir(tmp_path)
    assert list(class_tree(Path("photos")).paths.below(Path("photos")).texts()) == ["a/0.png", "b/0.png"]


def test_memory_for_many_files_is_little_more_than_their_names(tmp_path):
    for number in range(4000):
        path = tmp_path / f"class{number % 40:02d}" / f"{number:040d}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    class_tree(tmp_path)  # what the first call caches does not count
    tracemalloc.start()
    try:
        tree = class_tree(tmp_path)
        files = tree.paths.below(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    names = sum(len(os.fsencode(path)) for path in tree.paths) + sum(len(os.fsencode(path)) for path in files)
    assert peak < 2 * names  # a list of `Path` takes six times as much
