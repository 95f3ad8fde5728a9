"""A trained network and all that its file and its run say about it, whatever it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from capsule_lightning.components.own import import_own
from capsule_lightning.components.run_config import read_run_config
from capsule_lightning.data.trained_on import TrainedOn
from capsule_lightning.errors import InputError
from capsule_lightning.runs.folders import CONFIG_NAME, run_of_checkpoint
from capsule_lightning.runs.starts import told_of_starts
from capsule_lightning.sharing.checkpoint import network_of
from capsule_lightning.sharing.metadata import OF_IMAGES, Metadata, images_of
from capsule_lightning.sharing.network_file import Network, config_from, load_network, network_from, read_metadata


class Source(NamedTuple):
    """A network and what is known about it.

    Attributes:
        path: its file.
        net: in evaluation mode.
        metadata: what the file states.
        folder: of its run; None for a file outside of one.
        shared: whether the file is one to share, and no checkpoint.
    """

    path: str | Path
    net: Network
    metadata: Metadata
    folder: Path | None
    shared: bool

    @property
    def about(self) -> TrainedOn | None:
        """What the network was trained on; None of a checkpoint from before it held that."""
        known = self.shared or all(key in self.metadata for key in OF_IMAGES)
        return images_of(self.metadata, self.path) if known else None

    @property
    def config_file(self) -> str | Path:
        """The file that states the configuration, for messages."""
        return self.path if self.folder is None else self.folder / CONFIG_NAME

    @property
    def config(self) -> str | None:
        """The configuration of the run as it was written; None of a file outside of one."""
        if self.folder is None:
            return None
        return (self.folder / CONFIG_NAME).read_text(encoding="utf-8", errors="replace")

    def settings(self) -> Any:
        """Return the configuration with task, network and data.

        Raises:
            InputError: it is not known, or holds what no configuration may.
        """
        return config_from(self.metadata, self.path) if self.folder is None else read_run_config(self.folder)

    def title(self, settings: Any) -> str:
        """Return what a page about the network is called."""
        if self.folder is None:
            return Path(self.path).stem
        return f"{settings.get('experiment', self.folder.parent.name)}, run {self.folder.name}"

    def facts(self, data: str) -> dict[str, str]:
        """Return what is known of file and training, by name.

        Args:
            data: what is said of the images.
        """
        kind = "network file" if self.shared else "checkpoint"
        return {
            "data": data,
            kind: Path(self.path).name,
            **training(self.metadata),
            **({} if self.folder is None else told_of_starts(self.folder)),
        }


def read_run(checkpoint: Path) -> Source:
    """Read a checkpoint.

    Raises:
        InputError: it holds no network of images, or it is not known what its images are.
    """
    import_own(checkpoint)
    tensors, metadata = network_of(checkpoint)
    net = network_from(tensors, metadata, checkpoint)
    source = Source(checkpoint, net, metadata, run_of_checkpoint(checkpoint), False)
    if source.folder is None and source.about is None:
        raise InputError(
            f"{checkpoint}: no {CONFIG_NAME} of its run in the folders above it, which states what its images are; "
            "leave the checkpoint in its run, or export it and give --images FOLDER"
        )
    return source


def read_file(path: str | Path) -> Source:
    """Read a shared network.

    Raises:
        InputError: the file does not say what its images are.
    """
    metadata = read_metadata(path)
    source = Source(path, load_network(path), metadata, None, True)
    _ = source.about
    return source


def training(metadata: Metadata) -> dict[str, str]:
    """Return how long the network was trained, if the file says so."""
    return {"training steps": f"{int(metadata['step']):,}"} if metadata.get("step", "").isdecimal() else {}
