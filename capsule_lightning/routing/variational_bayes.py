"""Variational-Bayes routing, which is EM routing with priors, so that no Gaussian collapses onto a single vote.

De Sousa Ribeiro, Leontidis & Kollias, Capsule Routing via Variational Bayes, AAAI 2020 (arXiv 1905.11455).
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
from capsule_lightning.routing.base import Competition, MatrixRouting, Pose


@full_precision
def variational_bayes_routing(
    votes: Tensor,
    activations: Tensor,
    beta_u: Tensor,
    beta_a: Tensor,
    iterations: int = 3,
    alpha: float = 1.0,
    kappa: float = 1.0,
    psi: float = 1.0,
    compete: Competition = coupling_coefficients,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the posterior of a Gaussian to the votes for each parent, divide the children among the parents, and repeat.

    With ``r[i, j] = R[i, j] a[i]`` and ``R[j]`` its sum over the children, the posteriors of parent j are

    - of its share pi: Dirichlet, ``alpha[j] = alpha + R[j]``;
    - of its mean: Gaussian around ``m[j] = sum_i r[i, j] V[i, j] / kappa[j]``, ``kappa[j] = kappa + R[j]``;
    - of its precision: Wishart, diagonal, ``nu[j] = E + 1 + R[j]`` and
      ``1 / Psi[j] = 1 / psi + sum_i r[i, j] (V[i, j] - m[j])^2 + kappa m[j]^2``, which is the paper's sum around the
      mean of the votes, rearranged around m so that nothing divides by ``R[j]``.

    ``R[i, j]`` is then proportional to ``exp(E ln pi[j] + E ln p[i, j])``, where E ln is an expected logarithm. The
    score of a parent is ``beta_a - (exp(E ln pi[j]) H[j] + beta_u)`` with the entropy
    ``H[j] = (dim ln(2 pi e) - E ln |Lambda[j]|) / 2``.

    Args:
        votes: ``(..., I, J, E)``.
        activations: ``(..., I)``, of the children, in [0, 1].
        beta_u: ``(J)``.
        beta_a: ``(J)``.
        iterations: at least 1; the first has couplings of 1 / J.
        alpha: concentration of the Dirichlet prior, above 0.
        kappa: scale of the precision of the Gaussian prior, above 0; the mean of the prior is 0.
        psi: diagonal of the scale of the Wishart prior, above 0; the prior has E + 1 degrees of freedom.
        compete: turns logits ``(..., I, J)`` into couplings of the same shape.

    Returns:
        Means m ``(..., J, E)``, scores ``(..., J)``, and the couplings ``(..., I, J)`` that they were computed with.

    Raises:
        InputError: ``iterations`` is below 1.

    Source: de Sousa Ribeiro et al. 2020, Algorithm 1.
    """
    require_passes(iterations)
    dim = votes.shape[-1]
    votes_of_parents = votes.transpose(-3, -2).contiguous()  # (..., J, I, E), for matrix products

    def fit(couplings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the posteriors: means, masses R, E ln |Lambda|, E ln pi, and distances of the votes by the scatter."""
        weights = (couplings * activations.unsqueeze(-1)).transpose(-1, -2)  # (..., J, I)
        mass = weights.sum(dim=-1)  # (..., J)
        scale, nothing = 1 / (kappa + mass), torch.zeros_like(votes_of_parents[..., 0, :])
        means, scatter, distances = gaussians_of_votes(votes_of_parents, weights, scale, nothing, 1 / psi, kappa)
        halves = 0.5 * ((dim + 1 + mass).unsqueeze(-1) - torch.arange(dim, device=votes.device))  # (..., J, E)
        log_precision = (torch.digamma(halves) - scatter.log()).sum(dim=-1) + dim * log(2)
        concentration = alpha + mass
        log_share = torch.digamma(concentration) - torch.digamma(concentration.sum(dim=-1, keepdim=True))
        return means, mass, log_precision, log_share, distances

    couplings = torch.full_like(votes[..., 0], 1 / votes.shape[-2])
    means, mass, log_precision, log_share, distances = fit(couplings)
    for _ in range(iterations - 1):
        of_parents = log_share + 0.5 * (log_precision - dim / (kappa + mass))
        of_votes = -0.5 * (dim + 1 + mass).unsqueeze(-1) * distances  # (..., J, I)
        couplings = compete((of_parents.unsqueeze(-1) + of_votes).transpose(-1, -2))
        means, mass, log_precision, log_share, distances = fit(couplings)
    entropy = 0.5 * (dim * log(2 * pi * e) - log_precision)
    return means, beta_a - (log_share.exp() * entropy + beta_u), couplings


class VariationalBayesRouting(MatrixRouting):
    """Routing by variational Bayes, in which parents are posteriors over Gaussians.

    Poses and scores of the parents go through batch normalization without gain and bias, and the scores then through a
    sigmoid. Each type of parent has one mean and one variance for all elements of its poses, over the batch and all
    positions; if a batch has only one position in total, the running ones are used instead. The normalization removes
    what ``beta_u`` and ``beta_a`` add, so that they have no gradient in training; the paper and its released code have
    them all the same.

    Args:
        num_in, dim_in, num_out, dim_out, vote_weights, pose: see `MatrixRouting`.
        std: see `MatrixRouting`; with 0.05 the prior, of variance ``1 / psi``, keeps the first couplings soft.
        iterations, alpha, kappa, psi: see `variational_bayes_routing`.
        floor: least sum of densities that a child's are divided by, see `without_strays`: 1e-11 in the released code,
            where a child far from all parents drops out; 0 as in the paper, where it divides itself all the same.

    Raises:
        InputError: ``iterations`` is below 1, a prior is not above 0, or ``floor`` is below 0.

    Example:
        >>> routing = VariationalBayesRouting(72, 16, 32, 16)
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
        alpha: float = 1.0,
        kappa: float = 1.0,
        psi: float = 1.0,
        floor: float = 0.0,
        pose: Pose = "auto",
        std: float = 0.05,
    ) -> None:
        super().__init__(num_in, dim_in, num_out, dim_out, vote_weights=vote_weights, pose=pose, std=std)
        require_passes(iterations)
        for name, value in {"alpha": alpha, "kappa": kappa, "psi": psi}.items():
            require(value > 0, f"VariationalBayesRouting: {name}={value}: expected a number above 0 (the paper uses 1)")
        require(floor >= 0, f"VariationalBayesRouting: floor={floor}: expected 0 or more (the released code: 1e-11)")
        self.iterations, self.alpha, self.kappa, self.psi, self.floor = iterations, alpha, kappa, psi, floor
        self.beta_u = nn.Parameter(torch.zeros(num_out))
        self.beta_a = nn.Parameter(torch.zeros(num_out))
        self.pose_norm = nn.BatchNorm1d(num_out, affine=False)
        self.score_norm = nn.BatchNorm1d(num_out, affine=False)

    @override
    def forward(self, capsules: Capsules) -> Capsules:
        return self.from_votes(self.votes(capsules.poses), capsules.activations)

    @override
    def from_votes(self, votes: Tensor, activations: Tensor) -> Capsules:
        means, scores, _ = self._route(votes, activations)
        poses = normalize(means, self.pose_norm)
        return Capsules(poses, torch.sigmoid(normalize(scores.unsqueeze(-1), self.score_norm).squeeze(-1)))

    @override
    def couplings(self, capsules: Capsules) -> Tensor:
        return self._route(self.votes(capsules.poses), capsules.activations)[2]

    def _route(self, votes: Tensor, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return variational_bayes_routing(
            votes,
            activations,
            self.beta_u,
            self.beta_a,
            self.iterations,
            self.alpha,
            self.kappa,
            self.psi,
            self.compete if self.floor == 0 else self._compete_above_floor,
        )

    def _compete_above_floor(self, logits: Tensor) -> Tensor:
        # the logits are log densities but for the constant of the Gaussian
        return self.compete(logits, log(self.floor) + 0.5 * self.dim_out * log(2 * pi))


def normalize(values: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Normalize ``(..., J, E)`` over the batch, each J by one mean and variance; a single item by the running ones."""
    items = values.reshape(-1, *values.shape[-2:])
    if len(items) > 1:
        normalized: Tensor = norm(items)
    else:  # one item has no variance
        normalized = F.batch_norm(items, norm.running_mean, norm.running_var, eps=norm.eps)
    return normalized.view(values.shape)
