"""Metrics of joints: each equals a plain loop, counts what is labeled alone, and adds up over batches."""

from math import exp

import pytest
import torch

from capsule_lightning.data.skeletons import BODY_JOINTS, COCO_JOINTS
from capsule_lightning.metrics.joint_distances import MPJPE, ProcrustesMPJPE, aligned, root_of
from capsule_lightning.metrics.joints import (
    PCK,
    OKSAveragePrecision,
    PCKWithin,
    PixelError,
    average_precision,
    object_keypoint_similarity,
    sigmas_of,
    torso_of,
)

NAN = float("nan")


def bodies(count=6, joints=17, dims=2, seed=0, spread=4.0):
    random = torch.Generator().manual_seed(seed)
    truth = 50 * torch.rand(count, joints, dims, generator=random)
    return truth + spread * torch.randn(count, joints, dims, generator=random), truth


def measured(metric, joints, truth, areas=None, confidence=None):
    """The value of a metric that is given its bodies two at a time."""
    count = len(truth)
    areas = torch.full((count,), 900.0) if areas is None else areas
    confidence = torch.linspace(0.9, 0.1, count) if confidence is None else confidence
    for start in range(0, count, 2):
        here = slice(start, start + 2)
        metric.update(joints[here], truth[here], areas[here], confidence[here])
    return metric.compute().item()


def test_similarity_is_that_of_cocos_formula() -> None:
    joints, truth = bodies()
    truth[0, 3] = NAN
    areas, sigmas = torch.linspace(400, 900, 6), sigmas_of(COCO_JOINTS)
    found = object_keypoint_similarity(joints, truth, areas, sigmas)
    for body in range(6):
        terms = []
        for k in range(17):
            if not truth[body, k].isnan().any():
                square = float((joints[body, k].double() - truth[body, k].double()).square().sum())
                terms.append(exp(-square / (2 * float(areas[body]) * (2 * float(sigmas[k])) ** 2)))
        assert found[body].item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_constants_are_those_of_coco_and_pelvis_and_head_have_none() -> None:
    coco = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
    assert (1000 * sigmas_of(COCO_JOINTS)).round().tolist() == coco
    unknown = [name for name, sigma in zip(BODY_JOINTS, sigmas_of(BODY_JOINTS), strict=True) if sigma.isnan()]
    assert unknown == ["pelvis", "neck", "head"]


def test_average_precision_equals_a_loop_over_recalls() -> None:
    random = torch.Generator().manual_seed(2)
    similarity, confidence = torch.rand(40, generator=random), torch.rand(40, generator=random)
    total = 0.0
    for tenth in range(10):
        limit = 0.5 + 0.05 * tenth
        ranked = sorted(range(40), key=lambda n: -float(confidence[n]))
        right, points = 0, []
        for place, n in enumerate(ranked, 1):
            right += float(similarity[n]) >= limit
            points.append((right / 40, right / place))
        for step in range(101):
            total += max((p for recall, p in points if recall >= step / 100 - 1e-12), default=0.0) / 101
    assert average_precision(similarity, confidence).item() == pytest.approx(total / 10, abs=1e-9)


def test_perfect_joints_have_the_best_values() -> None:
    _, truth = bodies(joints=15)
    torso = torso_of(BODY_JOINTS)
    assert torso == (BODY_JOINTS.index("left_shoulder"), BODY_JOINTS.index("right_hip"))
    for metric in (PCK(0.2, torso), PCK(0.2, None), OKSAveragePrecision(sigmas_of(BODY_JOINTS)), PCKWithin(0.1)):
        assert measured(metric, truth, truth) == pytest.approx(1.0)
    for metric in (PixelError(), MPJPE((0,)), ProcrustesMPJPE()):
        solid = torch.cat([truth, truth[..., :1]], dim=-1)
        assert measured(metric, solid, solid) == pytest.approx(0.0, abs=1e-6)


def test_correct_keypoints_are_counted_by_their_own_reference() -> None:
    truth = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [10.0, 40.0]]])
    joints = truth + torch.tensor([[[1.9, 0.0], [0.0, 2.1], [7.9, 0.0]]])
    assert measured(PCK(0.2, (0, 1)), joints, truth) == pytest.approx(1 / 3)  # within 2
    assert measured(PCK(0.2, None), joints, truth) == pytest.approx(1.0)  # within 8
    truth[0, 0] = NAN  # the torso is not known
    assert torch.tensor(measured(PCK(0.2, (0, 1)), joints, truth)).isnan()
    assert measured(PCK(0.2, None), joints, truth) == pytest.approx(1.0)
    assert measured(PixelError(), joints, truth) == pytest.approx((2.1 + 7.9) / 2)


def test_position_errors_are_in_millimeters_from_the_root() -> None:
    joints, truth = bodies(dims=3, joints=15, spread=0.0)
    assert measured(MPJPE((0,)), joints + torch.tensor([3.0, -1.0, 0.5]), truth) == pytest.approx(0.0, abs=0.02)
    moved = joints.clone()
    moved[:, 1:, 0] += 0.03
    assert measured(MPJPE((0,)), moved, truth) == pytest.approx(1000 * 0.03 * 14 / 15, rel=1e-3)


def test_roots_are_the_pelvis_or_the_center_of_the_hips() -> None:
    assert root_of(BODY_JOINTS) == (0,)
    assert root_of(COCO_JOINTS) == (11, 12)
    assert root_of(["a", "b"]) == (0, 1)


def test_procrustes_forgives_a_similarity_and_nothing_else() -> None:
    random = torch.Generator().manual_seed(4)
    truth = torch.randn(5, 12, 3, generator=random, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 3, 3, generator=random, dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)[:, None, None].sign()
    joints = 0.4 * truth @ turn + torch.tensor([1.0, -2.0, 3.0])
    assert torch.allclose(aligned(joints, truth), truth, atol=1e-9)
    unlabeled = truth.clone()
    unlabeled[:, 3] = NAN
    wild = joints.clone()
    wild[:, 3] = 100.0
    known = [k for k in range(12) if k != 3]
    assert torch.allclose(aligned(wild, unlabeled)[:, known], truth[:, known], atol=1e-9)
    mirrored = joints * torch.tensor([-1.0, 1.0, 1.0])
    assert (aligned(mirrored, truth) - truth).norm(dim=-1).mean() > 0.1


def test_alignment_is_the_best_similarity() -> None:
    joints, truth = (each.double() for each in bodies(dims=3, joints=9, seed=5, spread=10.0))
    best = (aligned(joints, truth) - truth).square().sum(dim=(1, 2))
    random = torch.Generator().manual_seed(6)
    for _ in range(20):
        small = 0.02 * torch.randn(6, 3, 3, generator=random, dtype=torch.float64)
        turn = torch.linalg.matrix_exp(small - small.transpose(1, 2))
        near = aligned(joints, truth) @ turn * (1 + 0.01 * torch.randn(6, 1, 1, generator=random, dtype=torch.float64))
        assert ((near - truth).square().sum(dim=(1, 2)) >= best - 1e-9).all()


def test_bodies_without_labels_change_nothing() -> None:
    joints, truth = bodies(dims=2, joints=15)
    more = torch.full((2, 15, 2), NAN)
    for make in (
        PixelError,
        lambda: PCK(0.2, torso_of(BODY_JOINTS)),
        lambda: PCK(0.2, None),
        lambda: OKSAveragePrecision(sigmas_of(BODY_JOINTS)),
    ):
        confidence = torch.linspace(0.8, 0.2, 8)
        alone = measured(make(), joints, truth, confidence=confidence[:6])
        with_more = measured(
            make(), torch.cat([joints, torch.zeros(2, 15, 2)]), torch.cat([truth, more]), confidence=confidence
        )
        assert alone == pytest.approx(with_more)
    assert torch.tensor(measured(OKSAveragePrecision(sigmas_of(BODY_JOINTS)), joints[:2], more)).isnan()
