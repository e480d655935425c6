"""What is measured of a trained VAE: the published columns, and scores that no latent metric can fool."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import topoprior as tp
from experiments.klein_circles.images import ImageSet, Split
from topoprior.topology.isometries import isometry_distance
from topoprior.topology.loops import follow_loops
from topoprior.topology.scores import continuity, pairwise_distances, seam_jump, trustworthiness
from topoprior.vae.training import negative_elbo

_NEIGHBOURHOOD_POINTS = 2000
_PUBLISHED_SUBSET = 4  # added to the data's seed: which test images the bottleneck score takes


@torch.no_grad()
def evaluate(
    vae: tp.CoveringVAE, images: ImageSet, split: Split, seed: int, topology_points: int
) -> dict[str, Any]:
    """All scores on the test part; seams and loops on images rendered for them."""
    torch.manual_seed(seed)
    x, points = split.test
    points = images.space.project(points)
    reconstruction = torch.cat(
        [-vae.log_likelihood(part, vae.latents(part)) for part in x.split(1000)]
    ).mean()
    kl = torch.cat([vae.elbo(part).kl for part in x.split(1000)]).mean()
    results: dict[str, Any] = {
        "reconstruction NLL": reconstruction.item(),
        "negative ELBO": negative_elbo(vae, x),
        "KL": kl.item(),
    }
    some = slice(0, _NEIGHBOURHOOD_POINTS)
    latents = vae.latents(x[some])
    truth, found = pairwise_distances(images.space, points[some]), pairwise_distances(vae.covering, latents)
    results["trustworthiness"] = trustworthiness(truth, found)
    results["continuity"] = continuity(truth, found)
    results["seam jump"] = decoder_jump(vae)
    if vae.covering == images.space:
        if math.isfinite(vae.covering.volume):  # else the latents have a scale of their own
            results["isometry distance"] = isometry_distance(vae.covering, points[some], latents)
        report = follow_loops(vae.covering, lambda p: vae.latents(images.render(p.float())))
        results["loops kept"] = report.preserved
        results["loops"] = [
            {"linear": g[:-1, :-1].tolist(), "shift": g[:-1, -1].tolist()} for g in report.images
        ]
        results["broken relations"] = report.broken
        results["largest step"] = report.largest_step
    if topology_points:
        generator = torch.Generator().manual_seed(28 + _PUBLISHED_SUBSET)
        rows = torch.randperm(len(x), generator=generator)[:topology_points]
        there = pairwise_distances(images.space, points[rows])
        here = pairwise_distances(vae.covering, vae.latents(x[rows]))
        results.update(bottlenecks(there, here))
    return results


def decoder_jump(vae: tp.CoveringVAE) -> float:
    """Largest difference of a pixel's probability between two lifts of one point, in float64."""
    jump = seam_jump(vae.covering, lambda z: vae.double().decode(z).sigmoid())
    vae.float()
    return jump


def bottlenecks(truth: Tensor, found: Tensor, quantile: float = 0.9) -> dict[str, float]:
    """The published score: bottleneck distances between Rips diagrams of degree 1 and 2 over Z/2 and Z/3.

    Either metric is divided by the 90 % quantile of its positive distances. "bottleneck" is the mean of
    the four. It compares latent metrics: points drawn from the bottle without any encoder do well.

    Raises:
        ImportError: ripser or gudhi is missing.
    """
    from gudhi import bottleneck_distance
    from ripser import ripser

    scaled = [normalized(d, quantile) for d in (truth, found)]
    results = {}
    for field in (2, 3):
        diagrams = [ripser(d, maxdim=2, coeff=field, distance_matrix=True)["dgms"] for d in scaled]
        for degree in (1, 2):
            first, second = (diagram[degree].astype(np.float64) for diagram in diagrams)
            results[f"bottleneck H{degree} Z/{field}"] = float(bottleneck_distance(first, second))
    return {"bottleneck": sum(results.values()) / len(results), **results}


def normalized(distances: Tensor, quantile: float) -> np.ndarray:
    i, j = torch.triu_indices(len(distances), len(distances), 1)
    positive = distances[i, j]
    positive = positive[positive > 0].float()
    return (distances.float() / torch.quantile(positive, quantile)).fill_diagonal_(0).numpy()
