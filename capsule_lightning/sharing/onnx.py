"""All that a network computes as an ONNX model, which other programs run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from capsule_lightning.errors import InputError, first_line
from capsule_lightning.layers.special_tokens import PAD, SPECIAL
from capsule_lightning.losses.base import ClassificationLoss
from capsule_lightning.losses.naming import PresentClasses
from capsule_lightning.models.base import CapsuleNet
from capsule_lightning.models.detector import Detector
from capsule_lightning.models.pose import PoseNet
from capsule_lightning.models.translation import TranslationNet
from capsule_lightning.models.words import WordNet
from capsule_lightning.routing.base import Routing
from capsule_lightning.sharing.metadata import Metadata
from capsule_lightning.sharing.network_file import Network

ONNX_EXTRA = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3
"""Largest difference of an output, relative to its largest number: sums in another order stay far below, another
computation far above."""


class OnnxOutputs(nn.Module):
    """Map images to all that a network computes of them, as one tuple: the outputs of an ONNX file.

    Args:
        net: the network.

    Attributes:
        names: what the outputs are called.
        inputs: what the inputs are called, and their first sizes, which may differ from those of `examples`.
        free: the first sizes of each output.
    """

    free: Sequence[str] = ("batch",)

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net
        self.inputs: Mapping[str, Sequence[str]] = {"tokens" if isinstance(net, WordNet) else "images": ("batch",)}
        self.names = names_of_outputs(net)
        self.loss = loss_of_sets(net)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map ``(B, C, H, W)``, or tokens of texts, to the outputs in the order of `names`.

        Class capsules are ``(B, J, E)`` and ``(B, J)``, or of each pixel ``(B, H, W, J, E)`` and ``(B, H, W, J)``, and
        the reconstruction ``(B, C, H, W)`` is from the longest; for joints and maps see `Places` and `CenterMaps`. If
        an image may have any number of classes, the presence ``(B, J)`` is what is compared with the threshold.
        """
        if isinstance(self.net, Detector):
            maps = self.net(images)
            return maps.presence, maps.sizes, maps.offsets
        assert isinstance(self.net, CapsuleNet)
        capsules = self.net(images)
        if isinstance(self.net, PoseNet):
            places = self.net.read(capsules)
            more: tuple[Tensor | None, ...] = (places.joints, places.positions, places.depth)
        else:
            presence = None if self.loss is None else self.loss.presence(capsules)
            more = (presence, self.net.reconstruct(capsules, capsules.activations.argmax(dim=-1)))
        return (*capsules, *(each for each in more if each is not None))

    def examples(self) -> list[dict[str, Tensor]]:
        """Return inputs to trace the computation with, and others to compare it with; of texts the longest ones.

        Texts that are shorter have padding behind them, which has no say.
        """
        name, net = next(iter(self.inputs)), self.net
        if isinstance(net, WordNet):
            found = net.example_inputs(3)
            found[0, ..., -found.shape[-1] // 3 :] = PAD
        else:
            found = torch.rand(3, *net.in_shape, generator=torch.Generator().manual_seed(0))
        return [{name: found}, {name: found[:1]}]

    def most(self, size: str) -> int | None:
        """Return the largest value of one of the sizes in `inputs`; None for any."""
        return None


class OnnxWords(nn.Module):
    """Map sources and the words of targets to logits of the next words: the output of an ONNX file that translates.

    Args:
        net: the network.

    Attributes:
        names, inputs, free: see `OnnxOutputs`.
    """

    names: Sequence[str] = ("logits",)
    inputs: Mapping[str, Sequence[str]] = {"source": ("batch", "source_length"), "target": ("batch", "target_length")}
    free: Sequence[str] = ("batch", "target_length")

    def __init__(self, net: TranslationNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Map ``(B, S)`` and ``(B, T)`` int64 to ``(B, T, V)``, see `TranslationNet.forward`."""
        return (self.net(source, target),)

    def examples(self) -> list[dict[str, Tensor]]:
        """Return inputs of unlike lengths, with padding."""
        most, chance = self.net.most_tokens, torch.Generator().manual_seed(0)

        def some(batch: int, length: int) -> Tensor:
            return torch.randint(len(SPECIAL), self.net.num_classes, (batch, length), generator=chance)

        lengths = [(3, min(7, most), min(5, most)), (1, 1, 1), (2, most, most)]
        found = [{"source": some(batch, s), "target": some(batch, t)} for batch, s, t in lengths]
        for each in found[::2]:
            each["source"][0, 2:] = PAD
        return found

    def most(self, size: str) -> int | None:
        """Return the most tokens of a sentence."""
        return None if size == "batch" else self.net.most_tokens


def names_of_outputs(net: Network) -> list[str]:
    """Return what the outputs of a network are called in an ONNX file."""
    if isinstance(net, Detector):
        return ["presence", "sizes", "offsets"]
    names = ["poses", "activations"] + ["presence"] * (loss_of_sets(net) is not None)
    if isinstance(net, PoseNet):
        more = {"joints": True, "positions": net.reads_both, "depth": net.reads_depth}
        return names + [name for name, there in more.items() if there]
    return names + ["reconstruction"] * (net.decoder is not None)


def loss_of_sets(net: Network) -> ClassificationLoss | None:
    """Return the loss that says which classes are there; None unless an image may have any number of them."""
    naming = net.naming if isinstance(net, CapsuleNet) else None
    return naming.loss if isinstance(naming, PresentClasses) else None


def require_onnx() -> None:
    """Refuse to continue without the packages that write ONNX.

    Raises:
        InputError: one of them is not installed.
    """
    for package in ONNX_EXTRA:
        try:
            import_module(package)
        except ImportError as error:
            raise InputError(
                f'an .onnx file needs {package}, which is not installed: pip install "capsule_lightning[onnx]"'
            ) from error


def onnx_model(net: Network, metadata: Metadata) -> bytes:
    """Return a network as an ONNX model for batches of any size, in float32; of sentences of any length, too.

    The model is run before it is returned: its outputs are those of the network.

    Args:
        net: for evaluation; its routing is set to plain functions.
        metadata: to be carried by the file.

    Raises:
        InputError: the network cannot be expressed, or the model computes something else.
    """
    for module in net.modules():
        if isinstance(module, Routing):
            module.backend = "torch"  # no other program knows the operations of the fast paths
    net = net.float()
    outputs = (OnnxWords(net) if isinstance(net, TranslationNet) else OnnxOutputs(net)).eval()
    examples = outputs.examples()
    free = {size: torch.export.Dim(size, max=outputs.most(size)) for sizes in outputs.inputs.values() for size in sizes}
    shapes = tuple({n: free[size] for n, size in enumerate(sizes)} for sizes in outputs.inputs.values())
    try:
        with torch.no_grad(), _quiet():
            # strict, because then `len` of a tensor stays a symbol: plain tracing would fix the batch at 3
            traced = torch.export.export(outputs, tuple(examples[0].values()), dynamic_shapes=shapes, strict=True)
            program = torch.onnx.export(
                traced, input_names=[*outputs.inputs], output_names=[*outputs.names], verbose=False
            )
        assert program is not None
        model = program.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()  # which hold paths of the code
        sizes = [*outputs.inputs.values(), *[outputs.free] * len(outputs.names)]
        for value, names in zip((*model.graph.inputs, *model.graph.outputs), sizes, strict=True):
            assert value.shape is not None
            for n, name in enumerate(names):
                value.shape[n] = name
        model.metadata_props.update(metadata)
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # whatever the tracer, the translator and the format's limit of 2 GiB raise
        reason = first_line(error.__cause__ or error).split(" For more information")[0]
        raise InputError(
            f"this network cannot be written as ONNX for batches of any size ({reason}); share it as .safetensors"
        ) from error
    require_same_outputs(content, outputs, examples)
    return content


def require_same_outputs(
    content: bytes, outputs: OnnxOutputs | OnnxWords, batches: Sequence[Mapping[str, Tensor]]
) -> None:
    """Run an ONNX model, and refuse it if its outputs are not those of the network.

    Args:
        content: of the model.
        outputs: of the network.
        batches: inputs by name.

    Raises:
        InputError: names the output that differs.
    """
    runtime: Any = import_module("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch in batches:
        with torch.no_grad():
            expected = outputs(*batch.values())
        found = session.run(list(outputs.names), {name: given.numpy() for name, given in batch.items()})
        for name, ours, theirs in zip(outputs.names, expected, map(torch.from_numpy, found), strict=True):
            if ours.shape != theirs.shape or not (theirs - ours).abs().max() <= TOLERANCE * ours.abs().max():
                sizes = ", ".join(f"{what} {tuple(given.shape)}" for what, given in batch.items())
                raise InputError(f"as ONNX this network computes another {name} of {sizes}; share it as .safetensors")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the pages that torch logs about a network that it cannot trace."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
