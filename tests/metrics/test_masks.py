"""Scores of masks: equal to those of torchmetrics, and the same however images are split."""

import pytest
import torch
from torch.testing import assert_close
from torchmetrics.functional.segmentation import dice_score, mean_iou
from torchmetrics.functional.segmentation import hausdorff_distance as theirs

from capsule_lightning.metrics.masks import Dice, IoU, MaskScores, hausdorff_distance, image_dice

CLASSES = 4


@pytest.fixture
def masks():
    random = torch.Generator().manual_seed(0)
    predicted, true = (torch.randint(0, CLASSES, (6, 12, 12), generator=random) for _ in range(2))
    predicted[:3, :8] = true[:3, :8]
    predicted[0][predicted[0] == 2] = 0
    true[0][true[0] == 2] = 0  # neither there nor predicted
    return predicted, true


def test_scores_are_those_of_torchmetrics(masks):
    scores = MaskScores(CLASSES)
    scores.update(*masks)
    found = scores.compute()
    options = {"num_classes": CLASSES, "include_background": False, "input_format": "index"}
    total = dice_score(*masks, average="none", aggregation_level="global", **options).squeeze()
    assert_close(found["dice/by_class"].float(), total)
    each = dice_score(*masks, average="none", **options)
    assert_close(image_dice(*masks, CLASSES).float(), each, equal_nan=True)
    assert_close(found["image_dice"].float(), each.nanmean(dim=1).mean())
    flat = [mask.view(1, -1, 12) for mask in masks]  # all images as one
    assert_close(found["iou/by_class"].float(), mean_iou(*flat, per_class=True, **options)[0])
    assert found["hausdorff_missing"] == 0


def test_distances_are_those_of_torchmetrics(masks):
    predicted, true = masks[0][1:], masks[1][1:]  # of an empty mask torchmetrics says none
    scores = MaskScores(CLASSES)
    scores.update(predicted, true)
    distances = theirs(predicted, true, num_classes=CLASSES, input_format="index")
    assert_close(scores.compute()["hausdorff/by_class"].float(), distances.mean(dim=0))


@pytest.mark.parametrize("kind", [Dice, IoU, MaskScores])
def test_scores_do_not_depend_on_batches(kind, masks):
    predicted, true = masks
    true[:, 3] = -1
    whole, parts = kind(CLASSES), kind(CLASSES)
    whole.update(predicted, true)
    for places in ([0], [1, 2, 3, 4], [5]):
        parts.update(predicted[places], true[places])
    assert_close(whole.compute(), parts.compute())


def test_ignored_pixels_count_nowhere(masks):
    predicted, true = masks
    true[:, :, 5:8] = -1
    other = torch.where(true < 0, (predicted + 1) % CLASSES, predicted)
    for kind in (Dice, IoU, MaskScores):
        one, two = kind(CLASSES), kind(CLASSES)
        one.update(predicted, true)
        two.update(other, true)
        assert_close(one.compute(), two.compute())


def test_means_are_over_the_classes_that_are_there():
    true, metric = torch.tensor([[[0, 1], [1, 3]]]), Dice(5)
    metric.update(torch.tensor([[[0, 1], [0, 3]]]), true)
    assert_close(metric.compute(), torch.tensor((2 / 3 + 1) / 2))
    nothing = Dice(5)
    nothing.update(torch.zeros_like(true), torch.zeros_like(true))
    assert nothing.compute() == 0


def test_a_mask_that_is_missing_has_no_distance():
    scores, true = MaskScores(3), torch.zeros(1, 6, 6, dtype=torch.int64)
    true[0, 2:4, 2:4], true[0, 5, 5] = 1, 2
    found = torch.where(true == 2, 0, true)
    scores.update(found, true)
    assert scores.compute()["hausdorff"] == 0
    assert scores.compute()["hausdorff_missing"] == 0.5
    assert hausdorff_distance(found[0].numpy() == 2, true[0].numpy() == 2) != 0
