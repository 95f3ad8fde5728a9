"""Where the joints of a body are: one capsule for each joint.

Garau, Bisagno, Brodka & Conci, DECA: Deep Viewpoint-Equivariant Human Pose Estimation Using Capsule Autoencoders, ICCV
2021 (arXiv 2108.08557).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.data.joints import JointDataModule
from capsule_lightning.data.module import DataModule
from capsule_lightning.data.skeletons import usual_names
from capsule_lightning.data.targets import HasJoints, JointBatch
from capsule_lightning.errors import InputError, require, require_one_of
from capsule_lightning.losses.joints import joint_loss, learned_sum
from capsule_lightning.metrics.joint_distances import MPJPE, ProcrustesMPJPE, root_of
from capsule_lightning.metrics.joints import PCK, OKSAveragePrecision, PCKWithin, PixelError, sigmas_of, torso_of
from capsule_lightning.models.pose import Places, PoseNet
from capsule_lightning.models.pose_capsnet import PoseCapsNet
from capsule_lightning.schedules import ExponentialDecay
from capsule_lightning.tasks.annotated import AnnotatedTask
from capsule_lightning.tasks.base import ScheduleCallable, Stage

Reference = Literal["torso", "box"]
Weighting = Literal["fixed", "learned"]
NEAR = 0.1
"""Meters within which a joint counts for ``pck_100mm``."""


class PoseOutput(NamedTuple):
    """What a network says about a batch.

    Attributes:
        capsules: the joint capsules, ``poses (B, K, E), activations (B, K)``.
        places: what is read from them.
    """

    capsules: Capsules
    places: Places


class PosePrediction(NamedTuple):
    """What evaluation and prediction report about a batch.

    Attributes:
        joints: ``(B, K, D)`` in pixels or meters.
        presence: ``(B, K)`` in [0, 1], the activations of the joint capsules.
        distances: ``(B)``, mean distance of a labeled joint from the truth, in the units of the joints; NaN if none is
            labeled.
        depth: ``(B, 1, H, W)`` in [0, 1], the reconstructed depth map; None of a network without it.
        positions: ``(B, K, 3)`` meters, of a network that says both; otherwise None.
        poses: ``(B, K, E)``, the joint capsules.
    """

    joints: Tensor
    presence: Tensor
    distances: Tensor
    depth: Tensor | None
    positions: Tensor | None
    poses: Tensor


class PoseTask(AnnotatedTask):
    """Say where the joints of a body are, in pixels or in meters.

    Metrics in pixels: ``pck20_torso``, the share of joints within 20 % of the torso (left shoulder to right hip) of the
    truth; ``pck20_box``, within 20 % of the longer side of the box around all joints; ``oks_ap``, average precision by
    COCO's similarity, where areas are known; ``pixel_error``, the mean distance. In meters: ``mpjpe_mm``, the mean
    distance in millimeters after the roots are brought together; ``pa_mpjpe_mm``, after the best similarity
    (Procrustes); ``pck_100mm``, the share of joints within 10 cm. A joint that is not labeled counts nowhere, a hidden
    one as any other.

    Args:
        in_shape, num_classes: of the images and of the joints; stated by the data.
        net: called with ``(in_shape, num_classes)``.
        beta: distance at which the loss becomes linear, see `joint_loss`: in units of the image's longer side if joints
            are in pixels, otherwise in meters.
        visibility_weight: weight of the cross-entropy between activation and whether a joint is seen; 0 leaves the
            activations to themselves.
        reconstruction_weight: weight of the mean squared error of the depth map, of a network that reconstructs it.
        orthogonality_weight: weight of how far the vote matrices of the joints are from orthogonal, of `DECANet`;
            1 / 3000 in its code.
        weighting: ``fixed``, or ``learned`` for losses that are weighted by their learned noise, as DECA does it, with
            the weights above beside; it counts joints, positions, depth and orthogonality.
        alpha: share of the reference length within which a joint is correct for PCK.
        reference: what selects the best state and is needed: ``torso`` or ``box``; PCK by the box is always measured.
        optimizer, lr_scheduler: see `Task`.
        skip_not_finite: see `Task`; 0 stops at the first step that is not finite.

    Raises:
        InputError: values out of range; in `setup`, data without joints of that kind.
    """

    results: ClassVar[Mapping[str, Sequence[str]]] = {"output": (".csv",), "embeddings": (".npz",)}

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        net: Callable[[tuple[int, ...], int], PoseNet] = PoseCapsNet,
        beta: float = 0.02,
        visibility_weight: float = 0.0,
        reconstruction_weight: float = 0.1,
        orthogonality_weight: float = 0.0,
        weighting: Weighting = "fixed",
        alpha: float = 0.2,
        reference: Reference = "torso",
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: ScheduleCallable | None = ExponentialDecay,
        skip_not_finite: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, skip_not_finite)
        require(beta > 0 and isfinite(beta), f"beta={beta}: expected a distance above 0, such as 0.02")
        for name, weight in (
            ("visibility_weight", visibility_weight),
            ("reconstruction_weight", reconstruction_weight),
            ("orthogonality_weight", orthogonality_weight),
        ):
            require(weight >= 0 and isfinite(weight), f"{name}={weight}: expected 0 or more")
        require(0 < alpha <= 1, f"alpha={alpha}: expected a share above 0 and at most 1, such as 0.2")
        require_one_of("reference", reference, get_args(Reference))
        require_one_of("weighting", weighting, get_args(Weighting))
        self.save_hyperparameters(logger=False)
        self.in_shape, self.num_classes = tuple(in_shape), num_classes
        self.net = net(self.in_shape, num_classes)
        require(isinstance(self.net, PoseNet), f"{type(self.net).__name__} names classes; give --model.net PoseCapsNet")
        self.beta, self.alpha, self.reference = beta, alpha, reference
        self.weights = {
            "visibility_loss": visibility_weight,
            "depth_loss": reconstruction_weight if self.net.reads_depth else 0.0,
            "orthogonality_loss": orthogonality_weight,
        }
        if orthogonality_weight:
            self.net.orthogonality()
        self.noise = nn.Parameter(torch.ones(4)) if weighting == "learned" else None
        self.joint_names: Sequence[str] = usual_names(num_classes)
        parts = ["joint_loss", *(["position_loss"] if self.net.reads_both else [])]
        self.loss_names = ("loss", *parts, *(name for name, weight in self.weights.items() if weight))
        by = f"pck{round(100 * alpha)}_{reference}"
        self.selected_by = (by, "max") if self.net.dims == 2 else ("mpjpe_mm", "min")

    @override
    def setup(self, stage: str) -> None:
        """Take over the names of the joints.

        Raises:
            InputError: the data have no joints, joints of another kind, no depth to reconstruct, or no torso.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, JointDataModule):
            dims = self.net.dims
            require(
                data.dims == dims,
                f"dims={data.dims} of the data, and {type(self.net).__name__} says joints of {dims} coordinates: set "
                f"--data.dims {dims}, or --model.net.dims {data.dims}",
            )
            require(
                data.is_depth or not self.weights["depth_loss"],
                f"{data.name}: its images are no depth maps that could be reconstructed; set --model.net.depth_hidden "
                "null, or --model.reconstruction_weight 0",
            )
            require(
                not (self.net.reads_both and data.augments),
                "augmentation: joints in meters, which this network says, too, cannot follow what is done to images; "
                "set --data.augmentation null",
            )
            self.joint_names = list(data.class_names)
        elif isinstance(data, DataModule):
            raise InputError(
                f"PoseTask needs joints, and {type(data).__name__} has classes: give data such as FiguresDataModule, "
                "or --model ClassificationTask"
            )
        require(
            self.net.dims == 3 or self.reference == "box" or torso_of(self.joint_names) is not None,
            "reference=torso: there is no left_shoulder and right_hip among the joints; set --model.reference box",
        )

    @override
    def forward(self, images: Tensor) -> Capsules:
        """Return the joint capsules of images ``(B, C, H, W)``."""
        capsules: Capsules = self.net(images)
        return capsules

    @override
    def output(self, batch: HasJoints) -> PoseOutput:
        capsules = self(batch.images)
        return PoseOutput(capsules, self.net.read(capsules))

    @override
    def losses(self, output: PoseOutput, batch: HasJoints) -> dict[str, Tensor]:
        places, side = output.places, float(max(self.in_shape[-2:]))
        scale = side if self.net.dims == 2 else 1.0
        parts = {"joint_loss": joint_loss(places.joints / scale, batch.joints / scale, self.beta)}
        weighted = [parts["joint_loss"]]
        if places.positions is not None:
            known = getattr(batch, "positions", None)
            truth = torch.full_like(places.positions, torch.nan) if known is None else known
            parts["position_loss"] = joint_loss(places.positions, truth, self.beta)
            weighted.append(parts["position_loss"])
        if self.weights["visibility_loss"]:
            sure = output.capsules.activations.float().clamp(1e-4, 1 - 1e-4)
            parts["visibility_loss"] = F.binary_cross_entropy(sure, batch.visible.float())
        if self.weights["depth_loss"] and places.depth is not None:
            depth: Tensor = batch.depth  # type: ignore[attr-defined]
            parts["depth_loss"] = F.mse_loss(places.depth.float(), depth.expand_as(places.depth))
        if self.weights["orthogonality_loss"]:
            parts["orthogonality_loss"] = self.net.orthogonality()
        weighted += [self.weights[name] * parts[name] for name in self.weights if name in parts]
        loss = torch.stack(weighted)
        total = loss.sum() if self.noise is None else learned_sum(loss, self.noise[: len(loss)])
        return {"loss": total, **parts}

    @override
    def prediction(self, output: PoseOutput, batch: HasJoints) -> PosePrediction:
        places, (poses, presence) = output.places, output.capsules
        apart = torch.linalg.vector_norm(places.joints - batch.joints, dim=-1).nanmean(dim=-1)
        return PosePrediction(places.joints, presence, apart, places.depth, places.positions, poses)

    @override
    def metrics(self, stage: Stage) -> dict[str, Metric]:
        if self.net.dims == 3:
            return {
                "mpjpe_mm": MPJPE(root_of(self.joint_names)),
                "pa_mpjpe_mm": ProcrustesMPJPE(),
                f"pck_{round(1000 * NEAR)}mm": PCKWithin(NEAR),
            }
        found: dict[str, Metric] = {}
        torso, share = torso_of(self.joint_names), round(100 * self.alpha)
        if torso is not None:
            found[f"pck{share}_torso"] = PCK(self.alpha, torso)
        found[f"pck{share}_box"] = PCK(self.alpha, None)
        sigmas = sigmas_of(self.joint_names)
        if not bool(sigmas.isnan().all()):
            found["oks_ap"] = OKSAveragePrecision(sigmas)
        return {**found, "pixel_error": PixelError()}

    @override
    def compared(self, output: PoseOutput, batch: HasJoints) -> tuple[Tensor, ...]:
        known = getattr(batch, "areas", None)
        areas = batch.joints.new_full(batch.joints.shape[:1], torch.nan) if known is None else known
        return output.places.joints, batch.joints, areas, output.capsules.activations.float().mean(dim=-1)

    @override
    def example_batch(self, size: int) -> JointBatch:
        images = torch.rand(size, *self.in_shape, device=self.device)
        count = torch.arange(size, device=self.device)
        joints = torch.rand(size, self.num_classes, self.net.dims, device=self.device)
        positions = torch.rand(size, self.num_classes, 3, device=self.device)
        visible = torch.ones(size, self.num_classes, dtype=torch.bool, device=self.device)
        depth = images.mean(dim=1, keepdim=True)
        areas = torch.ones(size, device=self.device)
        return JointBatch(images, images, joints, visible, count, depth, positions, areas)
