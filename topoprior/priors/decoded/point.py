"""Kernels decoded at one point, and the gradient there: the inner loop of a layer with a delta posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from topoprior.spaces.flat.waves import ProductWaves


class DecodePoint(torch.autograd.Function):
    """Weights (out, in, k) = (alpha products(z), beta) @ known, for z (out, in, dim), alpha and beta (out, in).

    By hand, because in layers of usual size the number of operations is what costs.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, alpha: Tensor, beta: Tensor, waves: ProductWaves, known: Tensor
    ) -> Tensor:
        ctx.save_for_backward(z, alpha, known)
        ctx.waves = waves
        rows = torch.stack([*waves.rows(z.unbind(-1), alpha), beta])
        return (rows.flatten(1).T @ known).view(*alpha.shape, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, alpha, known = ctx.saved_tensors
        # Under autocast grad is of lower precision, as the weights were.
        of_rows = (known.to(grad.dtype) @ grad.flatten(0, -2).T).to(z.dtype)
        *of_products, of_beta = of_rows.view(-1, *alpha.shape).unbind()
        of_alpha, slopes = ctx.waves.gradient(z.unbind(-1), of_products)
        of_z = torch.stack([slope * alpha for slope in slopes], -1)
        return of_z, of_alpha, of_beta, None, None
