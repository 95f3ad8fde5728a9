"""What a command other than ``fit`` looks at: the network, and what its data are by default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from capsule_lightning.augmentations.base import Augmentation
from capsule_lightning.callbacks.prediction_files import PARQUET, parquet_library
from capsule_lightning.cli.words import Words
from capsule_lightning.components.foreign import require_harmless
from capsule_lightning.components.names import modernized
from capsule_lightning.components.own import import_own
from capsule_lightning.components.slots import Slot, arguments, find_class, path_of
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.nifti_volumes import NiftiVolumesDataModule, are_volumes
from capsule_lightning.data.text import TextDataModule
from capsule_lightning.data.trained_on import TrainedOn, read_trained_on
from capsule_lightning.data.translation import TranslationDataModule
from capsule_lightning.errors import InputError, require
from capsule_lightning.runs.checkpoint_files import TRAINED_ON, require_checkpoint, require_weights
from capsule_lightning.runs.folders import expanded, run_of_checkpoint
from capsule_lightning.runs.named import checkpoint_named
from capsule_lightning.runs.results import from_here, require_not_of_a_run, require_place
from capsule_lightning.sharing.annotated_pictures import JointPicturesDataModule, ScenePicturesDataModule
from capsule_lightning.sharing.checkpoint import images_of_checkpoint, stated_by, tensors_of
from capsule_lightning.sharing.metadata import images_of
from capsule_lightning.sharing.network_file import (
    NETWORKS,
    config_from,
    is_shared,
    load_weights,
    read_metadata,
    read_tensors,
    require_source,
)
from capsule_lightning.sharing.pictures import PicturesDataModule
from capsule_lightning.sharing.reader import READ_AS
from capsule_lightning.sharing.texts import GivenTextsDataModule
from capsule_lightning.tasks.annotated import AnnotatedTask
from capsule_lightning.tasks.base import Task
from capsule_lightning.tasks.images import ImageTask
from capsule_lightning.tasks.pose import PoseTask
from capsule_lightning.tasks.segmentation import SegmentationTask

SENTENCES_READ_AS = ("source_column", "vocabulary_size", "max_length", "batch_tokens", "batch_size")
"""Arguments of a data module of sentences that ``predict`` keeps for others."""
RESULTS = ("output", "embeddings")
"""Options of ``predict`` that name files."""
TABLE = "capsule_lightning.callbacks.predictions.PredictionTable"
TABLES = (
    TABLE,
    "capsule_lightning.callbacks.joint_table.JointTable",
    "capsule_lightning.callbacks.predicted_boxes.PredictedBoxes",
    "capsule_lightning.callbacks.predicted_masks.PredictedMasks",
    "capsule_lightning.callbacks.predicted_volumes.PredictedVolumes",
    "capsule_lightning.callbacks.translations.Translations",
)
"""What writes predictions, each of those that it finds fields for."""


def with_network(given: Words) -> Words:
    """Put the file that ``ckpt_path`` means in its place: that of a run, or of the newest run.

    Raises:
        InputError: there is no such run, or no network is named while the words choose other data.
    """
    name = given.option("ckpt_path")
    if (name is not None and is_shared(name)) or (name is None and given.flags):
        return given
    require(
        name is not None or not given.chooses_data,
        f"{given.command} needs a trained network: --ckpt_path runs/.../checkpoints/last.ckpt, a run's id, or best",
    )
    path = from_here(checkpoint_named(name, given.option("runs") or "runs", given.option("experiment") or "*"))
    if path != name:
        rank_zero_only(print)(f"network: {path}", flush=True)
    others = [(key, text) for key, text in given.options if key != "ckpt_path"]
    return given._replace(options=[*others, ("ckpt_path", path)])


def base_of_network(given: Words, checkpoint: str) -> Mapping[str, Any] | None:
    """Return the configuration that a checkpoint outside its run states itself; None if it does not.

    Raises:
        InputError: it names anything but classes of the package's kinds and plain values.
    """
    if given.chooses_data or not Path(checkpoint).is_file() or run_of_checkpoint(checkpoint) is not None:
        return None
    found = require_checkpoint(checkpoint)
    if "hyper_parameters" not in found:
        return None
    metadata = stated_by(found, checkpoint)
    return config_from(metadata, checkpoint) if "data" in metadata and "task" in metadata else None


def images_known(checkpoint: str) -> TrainedOn | None:
    """Return what a network was trained on; None if its file does not say so.

    Raises:
        InputError: the file cannot be read.
    """
    if is_shared(checkpoint):
        return images_of(read_metadata(checkpoint), checkpoint)
    return images_of_checkpoint(checkpoint)


def with_pictures(given: Words, base: Mapping[str, Any] | None, checkpoint: str) -> Mapping[str, Any] | None:
    """Let ``predict --data.images`` need no other data than the images.

    Raises:
        InputError: the network reads texts, or names several objects in an image.
    """
    if given.command != "predict" or given.option("data.images") is None or given.chooses_data or base is None:
        return base
    about = images_known(checkpoint)
    require_read(given, base, checkpoint, "images", "texts")
    require(
        reads(base, "images") and (about is None or about.num_labels in (0, 1)),
        f"data.images={given.option('data.images')}: {checkpoint} names several objects in an image, and pictures of "
        "one's own are for networks of one class an image; leave --data.images out to predict the test set",
    )
    if about is None or about.stored_shape is None:
        return base
    if not is_shared(checkpoint):
        import_own(Path(checkpoint))
    slot = annotated_slot(about, base, given) or pictures_slot(about, checkpoint)
    return {**base, "data": slot}


def reads(base: Mapping[str, Any], option: str) -> bool:
    """Say whether the data of a configuration have an option to predict with; True if it does not state data."""
    usual = modernized(base.get("data") or {}).get("class_path")
    return usual is None or option in arguments(find_class(str(usual), Slot((DataModule,))))


def require_read(given: Words, base: Mapping[str, Any], checkpoint: str, option: str, other: str) -> None:
    """Refuse an option of `predict` where the network's data have the other one alone."""
    require(
        reads(base, option) or not reads(base, other),
        f"data.{option}={given.option(f'data.{option}')}: {checkpoint} reads {other} and no {option}; give them by "
        f"--data.{other}",
    )


def annotated_slot(about: TrainedOn, base: Mapping[str, Any], words: Words) -> dict[str, Any] | None:
    """Return the slot of the data module that reads pictures for a network of masks, boxes or joints; None of others.

    Args:
        about: what it was trained on.
        base: configuration of its run.
        words: of the command, which name the pictures.
    """
    task = find_class(str(modernized(base.get("model") or {}).get("class_path")), Slot((Task,)))
    if not (isinstance(task, type) and issubclass(task, AnnotatedTask)):
        return None
    trained = (about.slot or {}).get("init_args", {})
    of_joints = issubclass(task, PoseTask)
    kept = ("dims", "batch_size") if of_joints else ("background", "invert", "max_pixels", "batch_size")
    names = list(about.class_names)[1 if issubclass(task, SegmentationTask) else 0 :]
    given = {"class_names": names, "shape": list(about.stored_shape or about.in_shape)}
    if issubclass(task, SegmentationTask) and are_volumes(expanded(str(words.option("data.images")), "--data.images")):
        of_volumes = ("plane", "window", "max_voxels", "batch_size")
        stated = given | {key: trained[key] for key in of_volumes if key in trained}
        return {"class_path": path_of(NiftiVolumesDataModule), "init_args": stated}
    made = JointPicturesDataModule if of_joints else ScenePicturesDataModule
    return {"class_path": path_of(made), "init_args": given | {key: trained[key] for key in kept if key in trained}}


def with_texts(given: Words, base: Mapping[str, Any] | None, checkpoint: str) -> Mapping[str, Any] | None:
    """Let ``predict --data.texts`` need no other data than the texts.

    Raises:
        InputError: the network reads images.
    """
    if given.command != "predict" or given.option("data.texts") is None or given.chooses_data or base is None:
        return base
    require_read(given, base, checkpoint, "texts", "images")
    about = images_known(checkpoint)
    if about is None or about.vocabulary is None:
        return base
    if about.of_sentences:
        kept = {
            key: value for key, value in (about.slot or {}).get("init_args", {}).items() if key in SENTENCES_READ_AS
        }
        return {**base, "data": {"class_path": path_of(TranslationDataModule), "init_args": kept}}
    slot = {
        "class_names": list(about.class_names),
        "vocabulary": checkpoint,
        "max_length": about.in_shape[1],
        "batch_size": (about.slot or {}).get("init_args", {}).get("batch_size", 50),
        "num_labels": about.num_labels,
    }
    return {**base, "data": {"class_path": path_of(GivenTextsDataModule), "init_args": slot}}


def with_vocabulary(config: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """Let texts be measured with the vocabulary of their network, whatever texts there are now to make one of."""
    data = config["data"]
    if (data.get("init_args") or {}).get("vocabulary", ...) is not None or not Path(checkpoint).is_file():
        return config
    about = images_known(checkpoint)
    if about is None or about.vocabulary is None:
        return config
    return {**config, "data": {**data, "init_args": {**data["init_args"], "vocabulary": checkpoint}}}


def pictures_slot(about: TrainedOn, checkpoint: str) -> dict[str, Any]:
    """Return the slot of the data module that reads pictures for a network.

    Raises:
        InputError: what the checkpoint says of its training data names anything but the package's kinds of classes: it
            may be from elsewhere, and the parser would call what it is given.
    """
    trained = (about.slot or {}).get("init_args", {})
    augmentation = modernized(trained.get("augmentation"))
    try:
        require_harmless(augmentation, (Augmentation,))
    except InputError as error:
        raise InputError(f"{checkpoint}: its images cannot be prepared ({error})") from error
    mean, deviation = about.statistics or (None, None)
    given = {
        "class_names": list(about.class_names),
        "shape": list(about.stored_shape or about.in_shape),
        "normalization": about.normalization,
        "mean": mean,
        "deviation": deviation,
        "value_range": about.value_range,
        "num_labels": about.num_labels,
        "augmentation": augmentation,
        "batch_size": trained.get("batch_size", 128),
        **{name: trained[name] for name in READ_AS if name in trained},
    }
    return {"class_path": path_of(PicturesDataModule), "init_args": given}


def for_predict(config: dict[str, Any], given: Words) -> dict[str, Any]:
    """Give ``predict`` its tables, and no logger unless one is asked for."""
    trainer = dict(config["trainer"])
    if given.option("trainer.logger") is None:
        trainer["logger"] = False
    listed = trainer["callbacks"] if isinstance(trainer["callbacks"], list) else []
    given_to = {key: config[key] for key in ("output", "embeddings", "overwrite")}
    tables = [{"class_path": table, "init_args": given_to} for table in TABLES]
    trainer["callbacks"] = [*(each for each in listed if each["class_path"] not in TABLES), *tables]
    short = {table.rpartition(".")[2] for table in TABLES}
    left_out = [name for name in config["without"] if name not in short]  # a run may do without its table
    return {**config, "trainer": trainer, "without": left_out}


def require_results(config: Mapping[str, Any]) -> None:
    """Refuse places for the results of ``predict`` that cannot or must not be written.

    Raises:
        InputError: a name that ends otherwise, a folder that does not exist, a file that is there, or a task that has
            nothing to write there.
    """
    task = find_class(config["model"]["class_path"], Slot((Task,)))
    for option in RESULTS:
        if config[option] is not None:
            suffixes = task.results.get(option)  # type: ignore[attr-defined]
            require(suffixes, f"{option}={config[option]}: {task.__name__} has none to write; leave --{option} out")
            path = expanded(config[option], f"--{option}")
            require(path.suffix in suffixes, f"{option}={path}: expected a name that ends in {' or '.join(suffixes)}")
            if path.suffix == PARQUET:
                parquet_library()
            require_not_of_a_run(path, f"--{option}")
            require_place(path, config["overwrite"], f"--{option}")


def take_network(path: str, checkpoint: Mapping[str, Any] | None, task: Task, data: ImageDataModule) -> None:
    """Refuse data that are not the network's, let them be normalized as it needs, and load the weights of a shared one.

    Args:
        path: of the network.
        checkpoint: its content, as `require_checkpoint` returns it; None if the network is a shared one.
        task, data: what was made for it.

    Raises:
        InputError: another network, or data of other classes or of another shape.
    """
    about = images_known(path) if checkpoint is None else read_trained_on(checkpoint.get(TRAINED_ON), path)
    if about is None and isinstance(data, ImageDataModule):
        data.keep_classes(None)
    if about is not None and isinstance(data, ImageDataModule | TextDataModule):
        about.require_same(data, path)
        about.normalizes(data)
    if about is not None and about.of_sentences and isinstance(data, TranslationDataModule):
        about.require_same_sentences(data, path)
    if checkpoint is not None:
        require_weights(path, checkpoint, task)
        return
    tensors, net = read_tensors(path), task.net
    assert isinstance(net, NETWORKS)
    require_weights(path, {"state_dict": tensors}, net)
    load_weights(net, tensors, path)
    if isinstance(task, ImageTask):
        task.trained_on = about


def take_weights(name: str, task: Task, runs: str = "runs") -> None:
    """Give a network the weights of another as far as they fit, and say what did not.

    Args:
        name: a checkpoint, a run, a file of ``export``, or the name of a shipped network.
        task: whose network begins from it.
        runs: folder of the runs.

    Raises:
        InputError: there is no such network, or nothing of it fits.
    """
    path = name if is_shared(name) else from_here(checkpoint_named(name, runs))
    require_source(path)
    tensors = read_tensors(path) if is_shared(path) else tensors_of(path)
    net = task.net
    if not isinstance(net, NETWORKS):
        raise InputError(f"init_from={name}: {type(task).__name__} has no capsule network to begin from it")
    mine = net.state_dict()
    fit = {key: value for key, value in tensors.items() if key in mine and mine[key].shape == value.shape}
    require(
        fit, f"init_from={name}: none of its {len(tensors)} tensors fits this network; give a --config like its own"
    )
    net.load_state_dict({**mine, **fit})
    taken, all_of_it = (sum(tensor.numel() for tensor in each.values()) for each in (fit, mine))
    reshaped = [key for key in tensors if key in mine and key not in fit]
    other = [f"{key} {tuple(tensors[key].shape)} for {tuple(mine[key].shape)}" for key in reshaped]
    lines = [f"init_from: {taken:,} of {all_of_it:,} parameters begin as in {path}"]
    for what, names in (
        ("of another shape, begin anew", other),
        ("not in it, begin anew", [key for key in mine if key not in tensors]),
        ("only in it, left out", [key for key in tensors if key not in mine]),
    ):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            lines.append(f"           {what}: {', '.join(names[:4])}{more}")
    rank_zero_only(print)("\n".join(lines), flush=True)
