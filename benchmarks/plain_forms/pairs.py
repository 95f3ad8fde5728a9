"""The zoo: networks of shipped configs and routings, each with its plain form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plain_forms.deepcaps import DeepCaps
from plain_forms.efficient_capsnet import EfficientCapsNet, SelfAttention
from plain_forms.em import EMCapsules, EMNet
from plain_forms.heinsen import MatrixLayer, VectorLayer
from plain_forms.inverted_attention import AttentionNet
from plain_forms.self_routing import SelfRoutingCapsules, SelfRoutingNet
from plain_forms.variational_bayes import BayesCapsules, BayesNet

FORMS = ("plain", "ours")


class Pair(NamedTuple):
    """A network or layer, and its plain form with the same parameters in the same order.

    Attributes:
        plain: makes the plain form, which is called with images and returns activations; or with poses and activations
            of children, and returns those of parents, or their poses alone.
        ours: makes ours.
        shape: of an image, or of the poses of all children.
        batch_size: images in a step.
        is_layer: whether it is a layer.
    """

    plain: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch_size: int
    is_layer: bool = False

    def inputs(self, batch_size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return random images, or poses and activations of children, which then have gradients."""
        if not self.is_layer:
            return [torch.rand(batch_size, *self.shape, dtype=dtype)]
        poses = torch.randn(batch_size, *self.shape, dtype=dtype) / self.shape[-1] ** 0.5
        activations = torch.rand(batch_size, *self.shape[:-1], dtype=dtype)
        return [poses.requires_grad_(), activations.requires_grad_()]

    def outputs(self, form: str, net: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Return activations of class capsules, or what the layer returns, of either form."""
        from capsule_lightning.capsules import Capsules

        if form == "plain":
            found = net(*inputs)
            return found if self.is_layer else (found,)
        return tuple(net(Capsules(*inputs))) if self.is_layer else (net(*inputs).activations,)


def network(config: str, *words: str) -> nn.Module:
    """Return the network of a shipped config, as `fit` would train it but for its decoder."""
    from capsule_lightning.cli.configs import resolve
    from capsule_lightning.components.build import build

    net = build(resolve(["fit", "--config", config, "--model.lr_scheduler=null", *words])).task.net
    net.decoder = None
    return net


def layer(config: str) -> nn.Module:
    """Return the first convolutional capsule layer of a shipped config."""
    found: nn.Module = network(config).layers[0]
    return found


def routing(config: str) -> nn.Module:
    """Return the routing of a shipped config's class capsules."""
    found: nn.Module = network(config).routing
    return found


def heinsen_matrices() -> nn.Module:
    """Return the routing of 2019 for 4x4 poses."""
    from capsule_lightning.routing.heinsen_matrix import HeinsenMatrixRouting

    return HeinsenMatrixRouting(1152, 16, 10, 16)


def heinsen_vectors() -> nn.Module:
    """Return the routing of 2022 as in ``routing/heinsen_vector.yaml``, without its read-out."""
    from capsule_lightning.routing.heinsen_vector import HeinsenVectorRouting

    return HeinsenVectorRouting(1152, 8, 10, 16, readout=False)


def of_network(plain: Callable[[], nn.Module], config: str, shape: tuple[int, ...], batch_size: int) -> Pair:
    """Return the pair of a config's network."""
    return Pair(plain, partial(network, config), shape, batch_size)


EM, BAYES = "smallnorb_matrix_capsules.yaml", "smallnorb_variational_bayes.yaml"
ATTENTION, SELF_ROUTING = "cifar10_inverted_attention.yaml", "cifar10_self_routing.yaml"
PAIRS = {
    "EM routing, network": of_network(EMNet, EM, (2, 32, 32), 8),
    "EM routing, layer": Pair(partial(EMCapsules, 32, 32, 3, 2), partial(layer, EM), (14, 14, 32, 16), 8, True),
    "variational Bayes, network": of_network(BayesNet, BAYES, (2, 32, 32), 32),
    "variational Bayes, layer": Pair(
        partial(BayesCapsules, 8, 16, 3, 2), partial(layer, BAYES), (14, 14, 8, 16), 32, True
    ),
    "inverted attention, network": of_network(AttentionNet, ATTENTION, (3, 32, 32), 16),
    "self-routing, network": of_network(SelfRoutingNet, SELF_ROUTING, (3, 32, 32), 64),
    "self-routing, layer": Pair(
        partial(SelfRoutingCapsules, 32, 32, 3, 2, 1), partial(layer, SELF_ROUTING), (8, 8, 32, 16), 64, True
    ),
    "Heinsen, matrices": Pair(partial(MatrixLayer, 1152, 10), heinsen_matrices, (1152, 16), 64, True),
    "Heinsen, vectors": Pair(partial(VectorLayer, 1152, 8, 10, 16), heinsen_vectors, (1152, 8), 128, True),
    "DeepCaps, network": of_network(DeepCaps, "cifar10_deepcaps.yaml", (3, 64, 64), 16),
    "Efficient-CapsNet, network": of_network(EfficientCapsNet, "mnist_efficient.yaml", (1, 28, 28), 64),
    "Efficient-CapsNet, routing": Pair(
        partial(SelfAttention, 16, 8, 10, 16), partial(routing, "mnist_efficient.yaml"), (16, 8), 64, True
    ),
}
