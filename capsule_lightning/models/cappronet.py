"""Class capsules as subspaces of the features: what an image has of each is the orthogonal projection onto it.

Zhang, Edraki & Qi, CapProNet: Deep Feature Learning via Orthogonal Projections onto Capsule Subspaces, NeurIPS 2018
(arXiv 1805.07621).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor, nn
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.encoders.base import FeatureEncoder
from capsule_lightning.encoders.vector import VectorEncoder
from capsule_lightning.errors import require
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.models.base import CapsuleNet


@full_precision
def subspace_coordinates(features: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return the projections of features onto subspaces, in coordinates of each.

    Their lengths are ``sqrt(x^T W_j (W_j^T W_j + epsilon I)^-1 W_j^T x)``. No inverse is formed: of the QR
    decomposition of ``W_j`` with ``sqrt(epsilon) I`` below it, ``R^T R = W_j^T W_j + epsilon I``, and the upper rows of
    Q are ``W_j R^-1``, an orthonormal basis but for epsilon.

    Args:
        features: ``(B, D)``, x.
        weight: ``(J, D, E)``, W; its columns span the subspaces.
        epsilon: added to the squared lengths of the columns, above 0.

    Returns:
        ``(B, J, E)``, float32 or wider.

    Source: Zhang et al. 2018, section 3.
    """
    num_out, dim_in, dim_out = weight.shape
    ridge = sqrt(epsilon) * torch.eye(dim_out, dtype=weight.dtype, device=weight.device)
    basis = torch.linalg.qr(torch.cat([weight, ridge.expand(num_out, -1, -1)], dim=1)).Q[:, :dim_in]
    return group_coordinates(features, basis)


@full_precision
def group_coordinates(features: Tensor, weight: Tensor) -> Tensor:
    """Return ``W_j^T x (B, J, E)`` of features ``(B, D)`` and ``weight (J, D, E)``, float32 or wider."""
    return torch.einsum("bd,jde->bje", features, weight)


class CapProNet(CapsuleNet):
    """The mean of each feature over its map, projected onto a subspace for each class; the longest projection wins.

    Nothing is routed and no votes are formed: a class costs ``D E`` weights and as many products. Poses are the
    projections, in coordinates of their subspaces, and activations the softmax of their lengths; train it with
    `CrossEntropyLoss` of ``pose_lengths``, as the paper does.

    Args:
        in_shape: ``(C, H, W)`` of one image.
        num_classes: classes, J.
        encoder: called with ``in_shape``; its D features are taken, and its capsules left out.
        dim: dimensions of a subspace, E, at most D.
        projection: whether features are projected; false for the paper's control, groups of E linear neurons whose
            length is the score of their class (``GroupNeurons``), which has as many weights.
        epsilon: see `subspace_coordinates`.

    Raises:
        InputError: ``dim`` is below 1 or above the number of features, or ``epsilon`` is not above 0.

    Source: Zhang et al. 2018, section 3; weights begin with the deviation of 0.01 of their released code.

    Example:
        >>> net = CapProNet((64, 1, 1), 10)
        >>> sum(parameter.numel() for parameter in net.parameters())
        1280
        >>> net(torch.rand(2, 64, 1, 1)).poses.shape
        torch.Size([2, 10, 2])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        encoder: Callable[[tuple[int, ...]], FeatureEncoder] = VectorEncoder,
        dim: int = 2,
        projection: bool = True,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__(in_shape, num_classes)
        self.encoder = encoder(self.in_shape)
        self.encoder.without_capsules()
        channels = self.encoder.channels
        require(
            1 <= dim <= channels,
            f"CapProNet: dim={dim}: expected 1 to {channels}, which is how many features the encoder has",
        )
        require(epsilon > 0, f"CapProNet: epsilon={epsilon}: expected a small number above 0, such as 1e-6")
        self.projection, self.epsilon = projection, epsilon
        self.weight = nn.Parameter(0.01 * torch.randn(num_classes, channels, dim))

    @override
    def class_capsules(self, images: Tensor) -> Capsules:
        features = self.encoder.features(images).mean(dim=(-2, -1))
        if self.projection:
            poses = subspace_coordinates(features, self.weight, self.epsilon)
        else:
            poses = group_coordinates(features, self.weight)
        return Capsules(poses, Capsules.from_vectors(poses).activations.softmax(dim=-1))
