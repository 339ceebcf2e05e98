"""Factorisations and products of stacked matrices."""

from __future__ import annotations

import torch
from torch import Tensor

VECTOR_TAIL = 64
"""More elements than torch's vector loops can leave over at the end of a stack."""


def lower_factor(M: Tensor) -> Tensor:
    """L of M = L O for stacked M (..., k, m), lower triangular with non-negative diagonal (`linalg.lq_factor`)."""
    _, R = torch.linalg.qr(M.mT, mode="r")
    L: Tensor = R.mT * _signs(R)[..., None, :]
    return L


def lower_factorisation(M: Tensor) -> tuple[Tensor, Tensor]:
    """(L, O) of M = L O, L as in `lower_factor`."""
    Q, R = torch.linalg.qr(M.mT)
    return R.mT * _signs(R)[..., None, :], Q.mT * _signs(R)[..., :, None]


def _signs(R: Tensor) -> Tensor:
    return torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)


def inside_outside(B: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """`order.inside_outside` of stacked encoders (..., k, d), with Q (d, q)."""
    b = each(B, Q)
    return b, lower_factor(B - each(b, Q.mT))


def each(M: Tensor, N: Tensor) -> Tensor:
    """M N for each of the stacked M, one product at a time: a product over the whole stack has other last bits."""
    flat = M.flatten(0, -3)
    return torch.bmm(flat, N.expand(len(flat), -1, -1)).view(*M.shape[:-1], N.shape[-1])


def finite_or_zero(M: Tensor) -> Tensor:
    """Stacked matrices (K, ., .) with 0 for each that holds something else than numbers: a factorisation refuses it."""
    return torch.where(M.isfinite().all(dim=2).all(dim=1)[:, None, None], M, 0.0)


def power(s: Tensor, a: float) -> Tensor:
    """s^a. The last elements of a stack are raised by another function than the rest, and have other last bits.

    So none of `s` is among them: a run must not depend on its place in the group.
    """
    flat = torch.cat([s.flatten(), s.new_zeros(VECTOR_TAIL)])
    return flat.pow(a)[: s.numel()].view_as(s)
