"""Windows over the words of a text, and which of them count: padding has no say.

A text is a row of tokens, numbers of a vocabulary, of which 0 is padding. A window counts if it begins with the first
word or brings a word that the window before it has not seen. So a text gives the same windows however far its row is
padded, and a text of the greatest length those of the papers, whose convolutions are not padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.layers.special_tokens import PAD


def text_lengths(tokens: Tensor) -> Tensor:
    """Return how many places of each row ``(B, T)`` there are up to the last word, ``(B)`` int64.

    Example:
        >>> text_lengths(torch.tensor([[5, 7, 0, 0], [0, 0, 0, 0]])).tolist()
        [2, 0]
    """
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return torch.where(tokens == PAD, 0, places).amax(dim=1)


def window_counts(lengths: Tensor, size: int, stride: int = 1, most: int | None = None) -> Tensor:
    """Return how many windows of each text count, of the shape of ``lengths``.

    Args:
        lengths: words of each text; a text without words has no window.
        size: words of a window.
        stride: words from one window to the next.
        most: windows of the longest text; None for no bound.

    Example:
        >>> window_counts(torch.tensor([0, 1, 3, 4, 6]), size=3, stride=2).tolist()
        [0, 1, 1, 2, 3]
    """
    counts = (lengths - size).clamp_min(0).add(stride - 1).div(stride, rounding_mode="floor") + (lengths > 0).long()
    return counts if most is None else counts.clamp_max(most)


def first_places(counts: Tensor, places: int) -> Tensor:
    """Return ``(B, places)`` bool, true at the first ``counts (B)`` places of each row."""
    return torch.arange(places, device=counts.device) < counts.unsqueeze(1)


class WordConvolution(nn.Module):
    """A convolution with ReLU over the words of a text, which says what windows count.

    Args:
        dim: dimensions of a word, D.
        filters: filters, F.
        size: words of a window, n.
        stride: words from one window to the next.
        longest: words of the longest text; what lies beyond is not read.

    Attributes:
        most: windows of the longest text.

    Example:
        >>> features, counts = WordConvolution(300, 32, 3, 2, longest=200)(torch.rand(2, 9, 300), torch.tensor([9, 4]))
        >>> features.shape, counts.tolist()
        (torch.Size([2, 4, 32]), [4, 2])
    """

    def __init__(self, dim: int, filters: int, size: int, stride: int, longest: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.most = max(longest - size, 0) // stride + 1
        self.longest = longest
        self.convolution = nn.Conv1d(dim, filters, size, stride)
        nn.init.kaiming_normal_(self.convolution.weight, nonlinearity="relu")
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]  # it has one

    @override
    def forward(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of the windows, and how many count.

        Args:
            words: ``(B, T, D)``, 0 where there is no word.
            lengths: ``(B)``, words of each text.

        Returns:
            ``(B, N, F)``, 0 in windows that do not count, and ``(B)`` int64.
        """
        words = words[:, : self.longest]
        most = min(self.most, max(words.shape[1] - self.size + self.stride - 1, 0) // self.stride + 1)
        reach = (most - 1) * self.stride + self.size
        words = F.pad(words, (0, 0, 0, max(0, reach - words.shape[1])))
        features = F.relu(self.convolution(words[:, :reach].transpose(1, 2))).transpose(1, 2)
        counts = window_counts(lengths.clamp_max(self.longest), self.size, self.stride, self.most)
        return features * first_places(counts, most).unsqueeze(-1), counts

    def spread(self, values: Tensor, places: int) -> Tensor:
        """Divide what windows ``(B, N, J)`` hold equally among their words: ``(B, places, J)``."""
        return spread(values, self.size, self.stride, places)


def spread(values: Tensor, size: int, stride: int, places: int) -> Tensor:
    """Divide values of windows ``(B, N, J)`` equally among their ``size`` places: ``(B, places, J)``.

    Example:
        >>> spread(torch.tensor([[[3.0], [6.0]]]), size=3, stride=1, places=5)[0, :, 0]
        tensor([1., 3., 3., 2., 0.])
    """
    count = values.shape[-1]
    even = values.new_full((count, 1, size), 1 / size)
    found = F.conv_transpose1d(values.transpose(1, 2), even, stride=stride, groups=count)
    return F.pad(found, (0, max(0, places - found.shape[-1])))[..., :places].transpose(1, 2)
