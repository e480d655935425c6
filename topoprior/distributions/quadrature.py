"""Deterministic quadrature against a wrapped normal, for any lattice and any covariance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.distributions.lattice_sums import count_wide, log_dual_sum, whitened_basis
from topoprior.utils.tracing import is_known_false

_REACH = 8.0  # the Gauss tail beyond 8 std holds 1e-15
# Nodes a dimension. The integrands are smooth on the scale of the std: the trapezoid rule converges
# exponentially, and these counts leave about 1e-11 in one and two dimensions, 1e-7 in three.
_NODES = {1: 512, 2: 192, 3: 56}
_TERMS = 1 << 21  # of dual sums at a time, to bound memory


def wrapped_normal_nodes(scale_tril: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights with E[g(x)] = sum_i w_i g(x_i), x ~ N(0, L L^T), g periodic on the lattice.

    Along directions where the normal is narrow beside the period: the trapezoid rule in the std;
    where it is wide: the trapezoid rule over one period, weighted by the wrapped density.

    Args:
        scale_tril: (..., n, n) with n <= 3.
        lattice: (n, r).

    Returns:
        nodes (..., N, n) and weights (..., N), in float64.

    Raises:
        NotImplementedError: n > 3.
    """
    scale_tril, lattice = scale_tril.double(), lattice.double()
    dim, rank = lattice.shape
    if dim not in _NODES:
        raise NotImplementedError(f"quadrature: at most {max(_NODES)} dimensions, found {dim}")
    count = _NODES[dim]
    step = 2 * _REACH / count
    line = (torch.arange(count, dtype=scale_tril.dtype, device=scale_tril.device) + 0.5) / count - 0.5
    unit = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)  # centred unit cube
    gauss = unit * 2 * _REACH
    log_weight = -0.5 * gauss.square() - 0.5 * math.log(2 * math.pi) + math.log(step)
    if rank == 0:
        return gauss @ scale_tril.transpose(-1, -2), log_weight.sum(-1).exp()

    q, r, _ = whitened_basis(scale_tril, lattice)
    order = torch.arange(1, rank + 1, device=r.device)
    num_wide = count_wide(r)
    is_wide = (order <= num_wide.unsqueeze(-1)).unsqueeze(-2)  # (..., 1, r)
    cell = torch.where(is_wide, unit[:, :rank], 0.0)
    along = cell @ r.transpose(-1, -2) + torch.where(is_wide, 0.0, gauss[:, :rank])
    total = torch.where(is_wide, 0.0, log_weight[:, :rank]).sum(-1) + log_weight[:, rank:].sum(-1)
    for wide in range(1, rank + 1):
        chosen = num_wide == wide
        if is_known_false(chosen):
            continue
        safe = torch.where(chosen[..., None, None], r, torch.eye(rank, dtype=r.dtype, device=r.device))
        block = safe[..., :wide, :wide].unsqueeze(-3)
        pieces = along[..., :wide].split(max(1, _TERMS // 9**wide), -2)
        density = torch.cat([log_dual_sum(p, block) for p in pieces], -1) - 0.5 * wide * math.log(
            2 * math.pi
        )
        cell_volume = block.diagonal(dim1=-2, dim2=-1).log().sum(-1) - wide * math.log(count)
        total = total + torch.where(chosen[..., None], density + cell_volume, 0.0)
    # Directions across the lattice complete Q to an orthonormal frame.
    y = along @ q.transpose(-1, -2)
    if rank < dim:
        complement = torch.linalg.svd(q, full_matrices=True).U[..., rank:]
        y = y + gauss[:, rank:] @ complement.transpose(-1, -2)
    return y @ scale_tril.transpose(-1, -2), total.exp()
