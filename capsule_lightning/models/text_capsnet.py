"""The capsule network for text.

Zhao, Ye, Yang, Lei, Zhang & Zhao, Investigating Capsule Networks with Dynamic Routing for Text Classification, EMNLP
2018 (arXiv 1804.00538), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.layers.special_tokens import PAD
from capsule_lightning.layers.squash import squash
from capsule_lightning.layers.token_windows import WordConvolution, first_places, text_lengths
from capsule_lightning.models.text import TextNet
from capsule_lightning.models.vote_scale import scale_votes
from capsule_lightning.models.word_votes import child_votes
from capsule_lightning.routing.base import Routing
from capsule_lightning.routing.stabilized import StabilizedRouting

OFFSET = 0.5
"""Of the squash of primary capsules."""


class TextBranch(nn.Module):
    """Windows of n words, their primary capsules, convolutional capsules, and class capsules.

    All children of a capsule layer share one vote matrix for each parent.

    Args:
        ngram: words of a window.
        dim_words: dimensions of a word's vector.
        longest: words of the longest text.
        num_out: class capsules, with the orphan if there is one.
        filters, stride, types, dim, window, average, routing, class_routing: see `TextCapsNet`.
    """

    def __init__(
        self,
        ngram: int,
        dim_words: int,
        longest: int,
        num_out: int,
        *,
        filters: int,
        stride: int,
        types: int,
        dim: int,
        window: int,
        average: bool,
        routing: Callable[..., Routing],
        class_routing: Callable[..., Routing],
    ) -> None:
        super().__init__()
        self.types, self.dim, self.window, self.average = types, dim, window, average
        self.convolution = WordConvolution(dim_words, filters, ngram, stride, longest)
        self.primary = nn.Linear(filters, types * dim)
        nn.init.kaiming_normal_(self.primary.weight, nonlinearity="relu")
        nn.init.zeros_(self.primary.bias)
        self.places = max(self.convolution.most - window, 0) + 1
        self.routing = routing(window * types, dim, types, dim, vote_weights=1)
        dim_out = self.routing.dim_out
        self.class_routing = class_routing(self.places * types, dim_out, num_out, dim, vote_weights=1)
        if average:  # at first the capsules of one type are much alike at all places, whose weights sum to 1
            scale_votes(self.routing, different=types)
            scale_votes(self.class_routing, activation=0.5 / self.places, different=types)
        else:
            for each in (self.routing, self.class_routing):
                scale_votes(each)

    @override
    def forward(self, words: Tensor, lengths: Tensor) -> Capsules:
        """Return the class capsules ``(B, J, E)`` of vectors ``(B, T, D)`` of texts of ``lengths (B)`` words."""
        parents: Capsules = self.class_routing(self.class_children(*self.primary_capsules(words, lengths)))
        return parents

    def primary_capsules(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the primary capsules that each convolutional capsule sees, and how many of these there are.

        Returns:
            ``(B, M, window A, D)``, ordered by place and then by type, 0 where there is no window; and ``(B)``.
        """
        features, counts = self.convolution(words, lengths)
        here = first_places(counts, features.shape[1])
        primary = squash(self.primary(features).view(*features.shape[:2], self.types, self.dim), offset=OFFSET)
        primary = primary * here[..., None, None]  # (B, N, A, D)
        primary = F.pad(primary, (0, 0, 0, 0, 0, max(0, self.window - primary.shape[1])))
        windows = primary.unfold(1, self.window, 1).movedim(-1, 2).flatten(2, 3)  # (B, M, window A, D)
        return windows, (counts - self.window + 1).clamp_min((counts > 0).long())

    def class_children(self, windows: Tensor, counts: Tensor) -> Capsules:
        """Return the children of the class capsules, ordered by place and then by type; 0 where there is no window.

        Args:
            windows, counts: see `primary_capsules`.
        """
        poses, activations = self.routing(Capsules.from_vectors(windows))
        there = first_places(counts, poses.shape[1])[..., None]
        if self.average:
            activations = activations / counts.clamp_min(1)[:, None, None]
        poses, activations = (poses * there.unsqueeze(-1)).flatten(1, 2), (activations * there).flatten(1, 2)
        if not self.class_routing.any_number:
            missing = self.class_routing.num_in - poses.shape[1]
            poses, activations = F.pad(poses, (0, 0, 0, missing)), F.pad(activations, (0, missing))
        return Capsules(poses, activations)

    def word_votes(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Return what each word adds to each class, ``(B, T, J)``, see `TextCapsNet.word_votes`."""
        windows, counts = self.primary_capsules(words, lengths)
        batch, places = windows.shape[:2]
        added = child_votes(self.class_routing, self.class_children(windows, counts))  # (B, I, J)
        added = added.reshape(batch, -1, self.types, added.shape[-1])[:, :places]  # (B, M, A, J)
        given = child_votes(self.routing, Capsules.from_vectors(windows)).clamp_min(0)  # (B, M, window A, A)
        given = given / given.sum(dim=2, keepdim=True).clamp_min(torch.finfo(given.dtype).tiny)
        of_primary = torch.einsum("bmia,bmaj->bmij", given, added)
        of_primary = torch.unflatten(of_primary, 2, (self.window, self.types)).sum(dim=3)  # (B, M, window, J)
        of_windows = added.new_zeros(batch, places + self.window - 1, added.shape[-1])
        for place, each in enumerate(of_primary.unbind(2)):
            of_windows[:, place : place + places] += each
        return self.convolution.spread(of_windows, words.shape[1])


class TextCapsNet(TextNet):
    """A network of n-gram features, primary capsules, convolutional capsules and class capsules of a text.

    With one size of window it is the paper's Capsule-A, by default its Capsule-B: three whole networks, whose class
    poses are averaged. Capsule-A has 43,680 weights for 9 class capsules, without the words' vectors. Train it with
    `MarginLoss` with a ``down_weight`` of 0.25.

    Args:
        in_shape, num_classes: see `TextNet`; stated by the data.
        ngrams: words of the windows of each branch: ``[3]`` for Capsule-A, ``[3, 4, 5]`` for Capsule-B.
        routing: routing of the convolutional capsules, called with ``(children, dim, types, dim)``; the default has the
            paper's leaky softmax and amendment, each of which is a switch of it.
        class_routing: routing of the class capsules, if it differs; null for ``routing``.
        orphan: have one more class capsule, which is never a target and takes up what belongs to no class.
        filters: filters of the n-gram convolution.
        stride: words from one window to the next.
        types: types of primary and of convolutional capsules; 16 in the released code, 32 in the paper.
        dim: dimensions of all capsules.
        window: places that a convolutional capsule sees.
        average: divide the activations of the class capsules' children by the number of places of the text, so that a
            routing that weighs children by them, as `StabilizedRouting` does, takes a mean over the text. In the paper
            it is a sum, and a longer text gives longer class capsules, of whichever class.
        dim_words: dimensions of a word's vector.
        static: keep the vectors of the words as they are, rather than train them.
        dropout: dropout rate of the words' vectors, in [0, 1].

    Raises:
        InputError: a size is below 1, or the rate is outside [0, 1].

    Example:
        >>> net = TextCapsNet((5000, 50), 2, ngrams=[3])
        >>> net(torch.tensor([[17, 4, 0], [9, 0, 0]])).poses.shape
        torch.Size([2, 2, 16])
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        ngrams: Sequence[int] = (3, 4, 5),
        routing: Callable[[int, int, int, int], Routing] = StabilizedRouting,
        class_routing: Callable[[int, int, int, int], Routing] | None = None,
        orphan: bool = True,
        filters: int = 32,
        stride: int = 2,
        types: int = 16,
        dim: int = 16,
        window: int = 3,
        average: bool = False,
        dim_words: int = 300,
        static: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_shape, num_classes, dim_words=dim_words, static=static, dropout=dropout)
        sizes = {"filters": filters, "stride": stride, "types": types, "dim": dim, "window": window}
        for name, size in sizes.items():
            require(size >= 1, f"TextCapsNet: {name}={size}: expected at least 1")
        require(
            len(ngrams) >= 1 and min(ngrams) >= 1, f"TextCapsNet: ngrams={list(ngrams)}: expected at least 1 word each"
        )
        self.orphan = orphan
        self.branches = nn.ModuleList(
            TextBranch(
                ngram,
                dim_words,
                self.longest,
                num_classes + orphan,
                filters=filters,
                stride=stride,
                types=types,
                dim=dim,
                window=window,
                average=average,
                routing=routing,
                class_routing=class_routing or routing,
            )
            for ngram in ngrams
        )

    @override
    def text_capsules(self, words: Tensor, lengths: Tensor) -> Capsules:
        words = self.dropout(words)
        found = [cast(Capsules, branch(words, lengths)) for branch in self.branches]
        poses = torch.stack([each.poses for each in found]).mean(dim=0)
        if len(found) > 1 and all(cast(TextBranch, branch).class_routing.gives_lengths for branch in self.branches):
            activations = Capsules.from_vectors(poses).activations
        else:
            activations = torch.stack([each.activations for each in found]).mean(dim=0)
        return Capsules(poses[:, : self.num_classes], activations[:, : self.num_classes])

    @override
    def word_votes(self, tokens: Tensor) -> Tensor:
        """Return what the words add to each class.

        What a convolutional capsule adds to it, see `child_votes`, is divided among the primary capsules whose votes
        point its way, and what each of these gets equally among the words that it sees.

        Args:
            tokens: ``(B, T)``.

        Returns:
            ``(B, T, J)``, 0 at padding.
        """
        words, lengths = self.embedding(tokens), text_lengths(tokens)
        votes = [cast(TextBranch, branch).word_votes(words, lengths) for branch in self.branches]
        return torch.stack(votes).mean(dim=0)[..., : self.num_classes] * (tokens != PAD).unsqueeze(-1)
