"""EM routing, in which parents are Gaussians that are fitted to the votes of their children.

Hinton, Sabour & Frosst, Matrix Capsules with EM Routing, ICLR 2018, Procedure 1.
"""

from __future__ import annotations

from math import e, log, pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from capsule_lightning.capsules import Capsules
from capsule_lightning.errors import require
from capsule_lightning.kernels.gaussians_of_votes import gaussians_of_votes
from capsule_lightning.layers.couplings import coupling_coefficients, require_passes
from capsule_lightning.layers.precision import full_precision
from capsule_lightning.layers.variant import Variant, require_variant
from capsule_lightning.routing.base import Competition, MatrixRouting, Pose

_LEAST_MASS = 1e-12  # what weights are divided by if a parent has no children
# the units of beta_u and beta_a in the released code, whose optimizer moves both by the same steps
_OFFICIAL_UNITS = log(2 * pi * e), -5000.0


def require_settings(iterations: int, min_variance: float, damping: float, mode: str) -> None:
    """Raise `InputError` if Procedure 1 cannot run with these settings."""
    require_passes(iterations)
    require(min_variance > 0, f"min_variance={min_variance}: expected a number above 0, such as 0.0005")
    require(0 <= damping < 1, f"damping={damping}: expected 0 or more and less than 1 (the released code uses 0.1)")
    require_variant(mode)


@full_precision
def em_routing(
    votes: Tensor,
    activations: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    iterations: int = 3,
    final_lambda: float = 0.01,
    min_variance: float = 5e-4,
    damping: float = 0.0,
    mode: Variant = "paper",
    compete: Competition = coupling_coefficients,
    equal_start: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Route by Procedure 1: fit a Gaussian to the votes for each parent, divide the children among them, and repeat.

    With ``r[i, j] = R[i, j] a[i]``, the mean and variance of parent j are those of its votes weighted by r, and
    ``a[j] = sigmoid(lambda (beta_a - sum_h (beta_u + log sigma[h]) sum_i r[i, j]))``; then ``R[i, j]`` is proportional
    to ``a[j]`` times the density of the vote. The last iteration ends with the parents.

    Args:
        votes: ``(..., I, J, E)``.
        activations: ``(..., I)``, of the children, in [0, 1].
        beta_u: ``(J)``, the cost of describing one dimension of one vote, besides ``log sigma``.
        beta_a: ``(J)``, the gain from being active.
        iterations: at least 1; the couplings of the first are what ``compete`` returns for equal logits.
        final_lambda: the inverse temperature of iteration t, counted from 0, is ``final_lambda (1 - 0.95^(t + 1))``.
        min_variance: added to each variance, above 0. The paper has no such term, and so an infinite density if a
            parent has one child; the released code uses 0.0005.
        damping: share of the previous iteration's mean, initially 0, in the new mean; 0.1 in the released code.
        mode: ``paper``, or ``official`` for the cost of the released code, which has the log variance for log sigma.
        compete: turns logits ``(..., I, J)`` into couplings of the same shape.
        equal_start: begin with couplings of 1 / J, as the released code does, whatever ``compete`` returns.

    Returns:
        Poses ``(..., J, E)``, activations ``(..., J)`` in [0, 1], and the couplings ``(..., I, J)`` that they were
        computed with.

    Raises:
        InputError: ``iterations`` is below 1, ``min_variance`` or ``damping`` is out of range, or ``mode`` is unknown.

    Source: Hinton et al. 2018, Procedure 1; the schedule of lambda is also the authors', from the paper's public review
    (openreview.net/forum?id=HJWLfGWRb).
    """
    require_settings(iterations, min_variance, damping, mode)
    dim = votes.shape[-1]
    votes_of_parents = votes.transpose(-3, -2).contiguous()  # (..., J, I, E), for matrix products
    nothing = torch.zeros_like(votes_of_parents[..., 0, :])

    def fit(couplings: Tensor, means: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take the M-step: return means, logits of the activations, and log densities of the votes up to a constant."""
        weights = (couplings * activations.unsqueeze(-1)).transpose(-1, -2)  # (..., J, I)
        mass = weights.sum(dim=-1)
        weights = weights / mass.clamp_min(_LEAST_MASS).unsqueeze(-1)
        scale = torch.full_like(mass, 1 - damping)
        means, variance, distances = gaussians_of_votes(votes_of_parents, weights, scale, damping * means, min_variance)
        log_variance = variance.log().sum(dim=-1)  # (..., J)
        cost = mass * (dim * beta_u + (0.5 if mode == "paper" else 1.0) * log_variance)
        logits = final_lambda * (1 - 0.95 ** (t + 1)) * (beta_a - cost)
        return means, logits, -0.5 * (distances + log_variance.unsqueeze(-1)).transpose(-1, -2)

    logits = torch.zeros_like(votes[..., 0])
    couplings = logits + 1 / logits.shape[-1] if equal_start else compete(logits)
    means, logits, log_density = fit(couplings, nothing, 0)
    for t in range(1, iterations):
        couplings = compete(F.logsigmoid(logits).unsqueeze(-2) + log_density)
        means, logits, log_density = fit(couplings, means, t)
    return means, torch.sigmoid(logits), couplings


class EMRouting(MatrixRouting):
    """Routing by expectation maximization, in which parents are Gaussians over the votes of their children.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights, pose: see `MatrixRouting`.
        std: see `MatrixRouting`; 0.5 is close to Xavier's for 4x4 matrices. If it is much smaller, the scatter of the
            votes disappears in ``min_variance`` and all parents are alike; if it is much larger, a parent may stay
            without children for good.
        iterations: number of iterations, 3 in the paper.
        final_lambda: see `em_routing`; the released code uses a quarter of it for class capsules.
        min_variance, damping: see `em_routing`.
        mode: ``paper``, which does not state where ``beta_u`` and ``beta_a`` start, here at 0, and whose small lambda
            makes an optimizer such as Adam move ``beta_a`` very slowly; or ``official`` for the cost of the released
            code and its parameters, which both start at 0.5: ``beta_u`` in units of ``log(2 pi e)``, ``beta_a`` in
            units of -5000.

    Raises:
        InputError: ``iterations`` is below 1, ``min_variance`` or ``damping`` is out of range, or ``mode`` is unknown.

    Example:
        >>> routing = EMRouting(72, 16, 32, 16)
        >>> routing(Capsules(torch.randn(2, 72, 16), torch.rand(2, 72))).poses.shape
        torch.Size([2, 32, 16])
    """

    routes_votes = True
    any_number = True

    def __init__(
        self,
        num_in: int,
        dim_in: int,
        num_out: int,
        dim_out: int,
        *,
        vote_weights: int | None = None,
        iterations: int = 3,
        final_lambda: float = 0.01,
        min_variance: float = 5e-4,
        damping: float = 0.0,
        mode: Variant = "paper",
        pose: Pose = "auto",
        std: float = 0.5,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights, pose=pose, std=std)
        require_settings(iterations, min_variance, damping, mode)
        self.iterations, self.final_lambda, self.min_variance = iterations, final_lambda, min_variance
        self.damping = damping
        self.mode: Variant = mode
        start = 0.0 if mode == "paper" else 0.5
        self.beta_u = nn.Parameter(torch.full((num_out,), start))
        self.beta_a = nn.Parameter(torch.full((num_out,), start))

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        return self.from_votes(self.votes(capsules.poses), capsules.activations)

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        return Capsules(*self._route(votes, activations)[:2])

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        return self._route(self.votes(capsules.poses), capsules.activations)[2]

    def _route(self, votes: Tensor, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit_u, unit_a = (1.0, 1.0) if self.mode == "paper" else _OFFICIAL_UNITS
        return em_routing(
            votes,
            activations,
            unit_u * self.beta_u,
            unit_a * self.beta_a,
            self.iterations,
            self.final_lambda,
            self.min_variance,
            self.damping,
            self.mode,
            self.compete,
            equal_start=self.within_types,
        )
