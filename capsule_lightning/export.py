"""A trained network in one file to share: its weights as safetensors, or all that it computes as ONNX."""

from __future__ import annotations

import json
import logging
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from capsule_lightning import __version__
from capsule_lightning.checkpoints import difference, require_checkpoint
from capsule_lightning.data.base import ImageDataModule
from capsule_lightning.errors import InputError
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.parser import Parser
from capsule_lightning.routing.dynamic import DynamicRouting
from capsule_lightning.runs import CONFIG_NAME, run_of_checkpoint

SUFFIXES = (".safetensors", ".onnx")
PRETRAINED = Path(__file__).parent / "pretrained"
"""Networks that come with the package; what they are is said beside them."""

_PREFIX = "net."  # of the network's tensors among those of a task
_NEEDED = ("net", "in_shape", "num_classes")  # metadata that a network is rebuilt from
_ONNX_EXTRA = ("onnx", "onnxscript", "onnxruntime")
# of the largest number of an output; sums in another order stay far below, another computation far above
_TOLERANCE = 1e-3

Metadata = dict[str, str]


class Exported(NamedTuple):
    """What `export` has written.

    Attributes:
        path: of the file.
        parameters: of the network.
        size: of the file in bytes.
        unknown: what the file does not say of the images that the network needs, and why; None where it says all.
    """

    path: Path
    parameters: int
    size: int
    unknown: str | None


def export(
    checkpoint: str | Path, output: str | Path | None = None, overwrite: bool = False, half: bool = False
) -> Exported:
    """Write the network of a checkpoint to a file of its own.

    Args:
        checkpoint: that ``fit`` has written.
        output: ends in ``.safetensors``, which `load_network` reads, or in ``.onnx``: images ``(B, C, H, W)`` float32
            to ``poses (B, J, E)``, ``activations (B, J)``, and ``reconstruction (B, C, H, W)`` from the longest capsule
            where there is a decoder. None for ``.safetensors`` beside the checkpoint.
        overwrite: replace a file that is there.
        half: weights in float16, half the size; `load_network` widens them. For ``.safetensors`` alone.

    Raises:
        InputError: a file that is no checkpoint, an output that cannot or must not be written, a network that ONNX
            cannot express.
    """
    checkpoint = Path(checkpoint)
    path = checkpoint.with_suffix(SUFFIXES[0]) if output is None else Path(output).expanduser()
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.suffix == ".onnx":
        if half:
            raise InputError(f"{path}: --half is for .safetensors; an .onnx file computes in float32")
        require_onnx()
    require_checkpoint(checkpoint)
    require_place(path, overwrite)
    tensors, metadata = network_of(checkpoint)
    net = filled(build_network(metadata, checkpoint), tensors, checkpoint)
    of_images, unknown = what_images_need(checkpoint)
    metadata |= of_images
    if path.suffix == ".onnx":
        content = onnx_model(net, metadata)
    else:
        # a copy of each, in order: the format knows neither views nor tensors that share their memory
        copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        if half:
            copies = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in copies.items()}
        content = safetensors.torch.save(copies, {"format": "pt", **metadata})
    write_whole(path, content, overwrite)
    return Exported(path, sum(p.numel() for p in net.parameters()), len(content), unknown)


def load_network(path: str | Path) -> CapsuleNet:
    """The network of a ``.safetensors`` file that `export` has written, for evaluation.

    Weights in half precision are widened to float32, where they have the same values; float64 stays float64. What the
    images need before they go in, `read_metadata` says under ``input``. Of what the file names,
    classes of modules alone are called.

    Args:
        path: of the file, or the name of a network that comes with the package.

    Raises:
        InputError: no such file, one of another kind, or weights that do not fit the network it describes.

    Example:
        >>> net = load_network("efficient_capsnet_mnist")
        >>> net(torch.rand(2, 1, 28, 28)).activations.shape
        torch.Size([2, 10])
    """
    metadata = read_metadata(path)
    missing = [key for key in _NEEDED if key not in metadata]
    if missing:
        raise InputError(
            f"{path}: does not say how its network is built, it lacks {', '.join(missing)} in its metadata; expected "
            "a file that `export` has written"
        )
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    return filled(build_network(metadata, path), tensors, path)


def read_metadata(path: str | Path) -> Metadata:
    """What a ``.safetensors`` file says of itself.

    Returns:
        ``net``, the JSON of the class and its arguments; ``in_shape`` and ``num_classes``; ``step``, ``epoch`` and
        ``capsule_lightning``, the version, of the training; and where they are known ``class_names``,
        ``normalisation``, and ``input``, a sentence that says what images the network expects.

    Raises:
        InputError: no such file, or one of another kind.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def _opened(path: str | Path) -> Any:
    shipped = PRETRAINED / f"{path}{SUFFIXES[0]}"
    file = shipped if shipped.is_file() else Path(path)
    if not file.is_file():
        names = ", ".join(sorted(each.stem for each in PRETRAINED.glob(f"*{SUFFIXES[0]}")))
        raise InputError(f"{path}: no such file; expected one that `export` has written, or a shipped network: {names}")
    try:
        return safetensors.safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no safetensors file, or a part of one ({_first_line(error)})") from error


def network_of(checkpoint: Path) -> tuple[dict[str, Tensor], Metadata]:
    """The tensors of a checkpoint's network by their plain names, and the metadata that it can be rebuilt from.

    Raises:
        InputError: the checkpoint does not say how its network was built.
    """
    found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    given, weights = found.get("hyper_parameters", {}), found["state_dict"]
    tensors = {name.removeprefix(_PREFIX): weights[name] for name in weights if name.startswith(_PREFIX)}
    if not tensors or not all(key in given for key in _NEEDED):
        raise InputError(f"{checkpoint}: does not say how its network was built; expected one that `fit` has written")
    recipe = {key: json.dumps(given[key]) for key in _NEEDED}
    progress = {key: str(found[name]) for key, name in (("step", "global_step"), ("epoch", "epoch")) if name in found}
    return tensors, {**recipe, **progress, "capsule_lightning": __version__}


def build_network(metadata: Mapping[str, str], path: str | Path) -> CapsuleNet:
    """The network that metadata describe, its weights as they begin.

    Args:
        metadata: see `read_metadata`.
        path: of the file that they are from, for the error.

    Raises:
        InputError: it cannot be built.
    """
    try:
        slot, in_shape, num_classes = (json.loads(metadata[key]) for key in _NEEDED)
        net = component(slot)(tuple(in_shape), num_classes)
    except (ValueError, TypeError, AttributeError) as error:  # InputError and what is no JSON among them
        raise InputError(f"{path}: its network cannot be built ({_first_line(error)})") from error
    if not isinstance(net, CapsuleNet):
        raise InputError(f"{path}: describes {type(net).__name__}, which is no network of images to class capsules")
    return net


def component(slot: object) -> Callable[..., nn.Module]:
    """A class of modules with its arguments, to be called with the shapes.

    Not by the parser of the command line, which also calls functions, and reads text for more of what it may call: a
    file from elsewhere must not run code.

    Args:
        slot: ``class_path`` and ``init_args``, some of which may be such slots again.

    Raises:
        InputError: no such class, or anything else than a class of modules.
    """
    if not isinstance(slot, dict) or not {"class_path"} <= set(slot) <= {"class_path", "init_args"}:
        raise InputError(f"{slot!r}: expected class_path and init_args")
    name = str(slot["class_path"])
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"no class {name!r} here: {error}; install or import what defines it") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"{name!r} is no part of a network")
    given = slot.get("init_args") or {}
    arguments = {key: component(value) if isinstance(value, dict) else value for key, value in given.items()}
    return partial(found, **arguments)


def filled(net: CapsuleNet, tensors: Mapping[str, Tensor], path: str | Path) -> CapsuleNet:
    """A network with these weights, for evaluation.

    Raises:
        InputError: names or shapes differ; the first difference is named.
    """
    wrong = difference(net, tensors)
    if wrong is not None:
        raise InputError(f"{path}: its weights are not those of the network it describes: {wrong}")
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        net.double()
    net.load_state_dict(tensors)
    return net.eval()


def what_images_need(checkpoint: Path) -> tuple[Metadata, str | None]:
    """Class names and normalisation, from the configuration of a checkpoint's run.

    Where channels are normalised by what was measured in the training images, it is measured again.

    Returns:
        Metadata, and what is missing in them and why; None where nothing is.
    """
    folder = run_of_checkpoint(checkpoint)
    if folder is None:
        return {}, f"its class names and normalisation, for want of the run's {CONFIG_NAME} beside the checkpoint"
    try:
        slot = yaml.safe_load((folder / CONFIG_NAME).read_text())["data"]
        data = data_module(slot)
    except (InputError, OSError, yaml.YAMLError, KeyError, TypeError) as error:
        return {}, f"its class names and normalisation: {_first_line(error)}"
    unknown = None
    if data.normalisation == "channel" and data.statistics is None:
        try:
            data.setup("fit")
        except InputError as error:
            unknown = f"the mean and deviation of its training images: {_first_line(error)}"
    normalisation: dict[str, Any] = {"kind": data.normalisation}
    if data.normalisation == "channel" and data.statistics is not None:
        normalisation |= dict(zip(("mean", "deviation"), map(list, data.statistics), strict=True))
    return {
        "class_names": json.dumps(list(data.class_names)),
        "normalisation": json.dumps(normalisation),
        "input": expected_input(data),
    }, unknown


def data_module(slot: object) -> ImageDataModule:
    """The data module of a slot of a run's configuration, as the command line makes it.

    Raises:
        InputError: a class or a value that the slot does not take.
    """
    parser = Parser()
    parser.add_argument("--data", type=ImageDataModule)
    made: ImageDataModule = parser.instantiate(parser.parse_object({"data": slot})).data
    return made


def expected_input(data: ImageDataModule) -> str:
    """One sentence: what is done to the images of a data set before the network sees them."""
    text = f"images (batch, {', '.join(map(str, data.in_shape))}) float32, pixels from 0 to 1"
    if data.in_shape != data.stored_shape:
        augmentation = type(data.augmentation).__name__
        text += f", brought from {tuple(data.stored_shape)} to this shape as {augmentation} does in evaluation"
    if data.normalisation == "per_image":
        text += ", then each image less its mean and divided by its standard deviation over all its values"
    elif data.normalisation == "channel" and data.statistics is not None:
        mean, deviation = map(list, data.statistics)
        text += f", then each channel less {mean} and divided by {deviation}"
    elif data.normalisation == "channel":
        text += ", then each channel less its mean and divided by its standard deviation over the training images"
    return text


class Answers(nn.Module):
    """Images to all that a network says of them, as one tuple; the outputs of an ONNX file.

    Args:
        net: the network.
    """

    def __init__(self, net: CapsuleNet) -> None:
        super().__init__()
        self.net = net
        self.names = ["poses", "activations", *([] if net.decoder is None else ["reconstruction"])]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(B, C, H, W)`` to ``(B, J, E)``, ``(B, J)``, and ``(B, C, H, W)`` from the longest capsule."""
        capsules = self.net(images)
        reconstruction = self.net.reconstruct(capsules, capsules.activations.argmax(dim=-1))
        return (*capsules, *([] if reconstruction is None else [reconstruction]))


def require_onnx() -> None:
    """Refuse to go on without the packages that write ONNX.

    Raises:
        InputError: one of them is not installed.
    """
    for package in _ONNX_EXTRA:
        try:
            import_module(package)
        except ImportError as error:
            raise InputError(
                f'an .onnx file needs {package}, which is not installed: pip install "capsule_lightning[onnx]"'
            ) from error


def onnx_model(net: CapsuleNet, metadata: Metadata) -> bytes:
    """A network as an ONNX model for batches of any size, in float32.

    It is run before it is given back: its answers are those of the network.

    Args:
        net: for evaluation; its dynamic routing is set to plain functions.
        metadata: that the file carries.

    Raises:
        InputError: a network that cannot be expressed, or that answers otherwise once it is.
    """
    for module in net.modules():
        if isinstance(module, DynamicRouting):
            module.backend = "torch"  # the fast paths are made of what no other program knows
    answers = Answers(net.float()).eval()
    images = torch.rand(3, *net.in_shape, generator=torch.Generator().manual_seed(0))
    shapes = {"images": {0: torch.export.Dim("batch")}}
    try:
        with torch.no_grad(), _quiet():
            # strict, because then `len` of a tensor stays a symbol: plain tracing would fix the batch at 3
            traced = torch.export.export(answers, (images,), dynamic_shapes=shapes, strict=True)
            program = torch.onnx.export(traced, input_names=["images"], output_names=answers.names, verbose=False)
        assert program is not None
        model = program.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # where the code lies on this machine
        for value in (*model.graph.inputs, *model.graph.outputs):
            assert value.shape is not None
            value.shape[0] = "batch"
        model.metadata_props.update(metadata)
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # whatever the tracer, the translator and the format's limit of 2 GiB raise
        reason = _first_line(error.__cause__ or error).split(" For more information")[0]
        raise InputError(
            f"this network cannot be written as ONNX for batches of any size ({reason}); share it as .safetensors"
        ) from error
    require_same_answers(content, answers, [images, images[:1]])
    return content


def require_same_answers(content: bytes, answers: Answers, batches: Sequence[Tensor]) -> None:
    """Run an ONNX model and refuse it where it does not say what the network says.

    Args:
        content: of the model.
        answers: of the network.
        batches: of images, each ``(B, C, H, W)``.

    Raises:
        InputError: names the output that differs.
    """
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for images in batches:
        with torch.no_grad():
            expected = answers(images)
        found = session.run(answers.names, {"images": images.numpy()})
        for name, ours, theirs in zip(answers.names, expected, map(torch.from_numpy, found), strict=True):
            if ours.shape != theirs.shape or not (theirs - ours).abs().max() <= _TOLERANCE * ours.abs().max():
                raise InputError(
                    f"as ONNX this network answers otherwise, by its {name} for {len(images)} images; share it as "
                    ".safetensors"
                )


def require_place(path: Path, overwrite: bool) -> None:
    """Refuse a folder that is not there, and a file that is.

    Raises:
        InputError: as said.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; make it, or choose another --output")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another --output, or replace it with --overwrite")


def write_whole(path: Path, content: bytes, overwrite: bool) -> None:
    """Write beside a place, onto the disk, and only then move there: no kill leaves a part of a file.

    Raises:
        InputError: it cannot be written, or has come into being meanwhile.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        require_place(path, overwrite)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that torch logs of a network that it cannot trace."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    """Of its message, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
