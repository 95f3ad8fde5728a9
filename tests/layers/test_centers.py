"""Boxes as centers: radii keep their overlap, targets equal a plain loop, and boxes come back from them."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou

from capsule_lightning.layers.centers import at_cells, center_targets, find_boxes, gaussian_radius


@pytest.mark.parametrize("least", [0.3, 0.7])
def test_corners_that_move_by_the_radius_keep_the_overlap(least):
    """In each direction, and not by one per mille more in every one."""
    for width, height in [(5.0, 5.0), (20.0, 4.0), (3.0, 50.0)]:
        r = float(gaussian_radius(torch.tensor(width).double(), torch.tensor(height).double(), least))
        box = torch.tensor([[0.0, 0.0, width, height]]).double()
        worst = []
        for scale in (1.0, 1.001):
            moves = torch.tensor(list(itertools.product((-r, r), repeat=4)), dtype=torch.float64) * scale
            worst.append(float(box_iou(box, box + moves).min()))
        assert worst[0] >= least - 1e-9
        assert worst[1] < least


def plain(boxes, labels, num_classes, rows, columns, stride):
    heat = torch.zeros(num_classes, rows, columns).double()
    for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
        if label < 0:
            continue
        left, top, right, bottom = (edge / stride for edge in box)
        width, height = torch.tensor([right - left, bottom - top]).double()
        r = max(0, math.floor(gaussian_radius(width, height)))
        column, row = math.floor((left + right) / 2), math.floor((top + bottom) / 2)
        for y, x in itertools.product(range(rows), range(columns)):
            if abs(x - column) <= r and abs(y - row) <= r:
                sigma = (2 * r + 1) / 6
                value = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                heat[label, y, x] = max(heat[label, y, x], value)
    return heat


def objects():
    torch.manual_seed(0)
    corner = torch.rand(3, 5, 2).double() * 40
    boxes = torch.cat([corner, (corner + 4 + 30 * torch.rand(3, 5, 2)).clamp(max=64)], dim=-1)
    labels = torch.randint(0, 4, (3, 5))
    labels[0, 3:] = labels[2] = -1
    return boxes, labels


def test_targets_equal_a_plain_loop():
    boxes, labels = objects()
    found = center_targets(boxes, labels, labels > 9, 4, (16, 18), 4)
    for n in range(3):
        assert_close(found.heat[n], plain(boxes[n], labels[n], 4, 16, 18, 4))
    assert found.heat[2].sum() == 0
    assert (found.counts == 1).all()


def test_boxes_come_back_from_their_targets():
    boxes, labels = objects()
    target = center_targets(boxes, labels, labels > 9, 4, (16, 18), 4)
    sizes, offsets = torch.zeros(3, 2, 16 * 18).double(), torch.zeros(3, 2, 16 * 18).double()
    for n, k in target.present.nonzero().tolist():
        sizes[n, :, target.cells[n, k]], offsets[n, :, target.cells[n, k]] = target.sizes[n, k], target.offsets[n, k]
    sizes, offsets = sizes.view(3, 2, 16, 18), offsets.view(3, 2, 16, 18)
    found = find_boxes(target.heat, sizes, offsets, 4)
    for n in range(3):
        sure = found.scores[n] == 1
        expected = sorted(
            [*box, label] for box, label in zip(boxes[n].tolist(), labels[n].tolist(), strict=True) if label >= 0
        )
        got = sorted(
            [*box, c] for box, c in zip(found.boxes[n][sure].tolist(), found.labels[n][sure].tolist(), strict=True)
        )
        assert_close(torch.tensor(got), torch.tensor(expected))
    assert_close(at_cells(sizes, target.cells)[target.present], target.sizes[target.present])


def test_nothing_counts_in_a_crowd_but_the_centers_of_objects():
    boxes = torch.tensor([[[0.0, 0, 32, 32], [40.0, 40, 60, 60], [8.0, 8, 16, 16]]])
    labels, crowd = torch.tensor([[0, 1, 0]]), torch.tensor([[True, False, False]])
    found = center_targets(boxes, labels, crowd, 2, (16, 16), 4)
    assert found.present.tolist() == [[False, True, True]]
    assert found.counts[0, 3, 3] == 1  # the center of the third object, though it lies in the crowd
    assert found.counts[0, :8, :8].sum() == 1
    assert found.counts[0].sum() == 256 - 63


def test_padding_and_batch_mates_change_nothing():
    boxes, labels = objects()
    whole = center_targets(boxes, labels, labels > 9, 4, (16, 16), 4)
    padded = torch.cat([boxes[:1], torch.zeros(1, 3, 4).double()], dim=1)
    more = torch.cat([labels[:1], torch.full((1, 3), -1)], dim=1)
    alone = center_targets(padded, more, more > 9, 4, (16, 16), 4)
    assert torch.equal(alone.heat[0], whole.heat[0])
    assert alone.present.sum() == whole.present[0].sum()
