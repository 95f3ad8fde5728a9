"""From logits to a translation: the most likely word each time, or the best of several beginnings (beam search)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from capsule_lightning.layers.special_tokens import BEGIN, END, PAD

if TYPE_CHECKING:
    from capsule_lightning.models.translation import TranslationNet

ALPHA = 0.6
"""Power of a translation's length by which its log-likelihood is divided (Wu et al. 2016, arXiv 1609.08144)."""
FACTOR, MORE = 2, 10
"""A translation has at most twice as many tokens as its source, and ten more."""


@torch.no_grad()
def translate(net: TranslationNet, source: Tensor, beam: int = 4) -> Tensor:
    """Return translations of sources, the same whatever other sources are in the batch.

    Args:
        net: in evaluation.
        source: ``(B, S)`` int64.
        beam: beginnings that are followed at a time; 1 for the most likely word each time.

    Returns:
        ``(B, T)`` int64, each with `END` and `PAD` behind it.
    """
    return greedy(net, source) if beam == 1 else beam_search(net, source, beam)


def limits(net: TranslationNet, source: Tensor) -> Tensor:
    """Return the most tokens ``(B)`` of each translation, `END` included."""
    return (FACTOR * (source != PAD).sum(dim=1) + MORE).clamp_max(net.most_tokens)


def log_likelihoods(logits: Tensor, step: int, most: Tensor) -> Tensor:
    """Return the log-likelihoods ``(R, V)`` of the next words, of which a row at its limit has `END` alone.

    Args:
        logits: ``(R, V)``.
        step: tokens before.
        most: ``(R)``, see `limits`.
    """
    found = F.log_softmax(logits.float(), dim=-1)
    found[:, [PAD, BEGIN]] = -torch.inf  # no words
    last = (step + 1 >= most).unsqueeze(1) & (torch.arange(found.shape[1], device=found.device) != END)
    return found.masked_fill(last, -torch.inf)


def greedy(net: TranslationNet, source: Tensor) -> Tensor:
    """Return translations ``(B, T)``, the most likely word each time."""
    memory, most, progress = net.read(source), limits(net, source), None
    words = torch.full((len(source),), BEGIN, device=source.device)
    is_over = torch.zeros_like(words, dtype=torch.bool)
    said: list[Tensor] = []
    while not bool(is_over.all()):
        logits, progress = net.step(words, memory, progress)
        words = log_likelihoods(logits, len(said), most).argmax(dim=-1).masked_fill(is_over, PAD)
        is_over = is_over | (words == END)
        said.append(words)
    return torch.stack(said, dim=1) if said else source.new_empty(0, 0)


def beam_search(net: TranslationNet, source: Tensor, beam: int) -> Tensor:
    """Return translations ``(B, T)``, the best that following ``beam`` beginnings at a time finds.

    A beginning, or a translation that has ended, is as good as its log-likelihood divided by ``length ** 0.6``. A
    translation that has ended keeps its place until better ones take it. The search ends when all places have ended.
    """
    batch, device = len(source), source.device
    rows = torch.arange(batch, device=device).repeat_interleave(beam)
    memory, most, progress = net.read(source).of(rows), limits(net, source)[rows], None
    said = torch.full((batch * beam, 1), BEGIN, device=device)
    total = torch.full((batch, beam), -torch.inf, device=device)
    total[:, 0] = 0  # all places begin the same: one is followed
    length = torch.zeros(batch, beam, device=device)
    is_over = torch.zeros(batch, beam, dtype=torch.bool, device=device)
    first = torch.arange(batch, device=device).unsqueeze(1) * beam  # row of each sentence's first place
    while not bool(is_over.all()):
        logits, progress = net.step(said[:, -1], memory, progress)
        found = log_likelihoods(logits, said.shape[1] - 1, most).view(batch, beam, -1)
        stay = torch.full_like(found, -torch.inf)
        stay[:, :, PAD] = 0
        totals = total.unsqueeze(-1) + torch.where(is_over.unsqueeze(-1), stay, found)
        lengths = length + (~is_over).float()
        quality = (totals / lengths.clamp_min(1).unsqueeze(-1) ** ALPHA).flatten(1)
        best = quality.topk(beam, dim=1).indices  # (B, beam)
        place, words = best // found.shape[-1], best % found.shape[-1]
        total, length = totals.flatten(1).gather(1, best), lengths.gather(1, place)
        is_over = is_over.gather(1, place) | (words == END) | (total == -torch.inf)  # a place that nothing fills
        rows = (first + place).flatten()
        said, progress = torch.cat([said[rows], words.view(-1, 1)], dim=1), progress.of(rows)
    quality = total / length.clamp_min(1) ** ALPHA
    return said.view(batch, beam, -1)[torch.arange(batch, device=device), quality.argmax(dim=1), 1:]
