"""Kernels decoded from Euclidean latents: the deep weight prior's idea with our VAE, for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topoprior import checkpoints
from topoprior.checkpoints import CheckpointError
from topoprior.checks import check_fraction, check_positive
from topoprior.latent_posterior import EuclideanDecoderPosterior, FrozenMLP, hermite_grid
from topoprior.priors import (
    HE_GAIN,
    Shape,
    WeightPrior,
    priors_serving,
    register_format,
    register_prior,
)

FORMAT = "topoprior.EuclideanDecoderPrior/1"
_OPTIONS = ("gain", "mean_fraction", "init_scale", "init_latent_scale", "empirical_bayes")


class EuclideanDecoderPrior(WeightPrior):
    r"""Convolution kernels decoded by a frozen network from normal latents:

    .. math:: w_{oi} = \alpha_{oi}\, g(z_{oi}) + \beta_{oi}\, 1 / \sqrt{k}, \quad
              z \sim N(0, I),\ \alpha \sim N(0, s_a^2),\ \beta \sim N(0, s_b^2)

    as in :class:`~topoprior.DecoderPrior`, but with the plane in place of a closed space. No continuous g on
    the plane is a homeomorphism onto the Klein bottle, so the VAE behind "euclidean-3x3" has to tear it
    somewhere (docs/priors.md has the errors): it is there to compare with.

    The posterior is a mean-field normal over z, alpha and beta: 2 dim + 4 numbers a kernel. Its closed-form
    KL bounds that of the weights from above (data processing).

    Args:
        decoder: the network g, latents (..., dim) -> kernels (..., k); scaled here to E|g(z)|^2 = 1.
        kernel_size: of the decoded kernels; their product is k.
        gain: He's sqrt(2) by default; E|w_oi|^2 = s_a^2 + s_b^2 = gain^2 / in.
        mean_fraction: s_b^2 as a fraction of the whole.
        init_scale: posterior std of alpha and beta at the start, as a fraction of the prior's.
        init_latent_scale: posterior std of z at the start.
        empirical_bayes: learn factors on s_a and s_b (:class:`~topoprior.priors.BoundedScale`).

    Raises:
        ValueError: shapes that do not fit, numbers out of range.

    Source: Atanov et al. 2019 (The deep weight prior), without its auxiliary inference network.

    Example:
        >>> prior = EuclideanDecoderPrior.from_pretrained("euclidean-3x3")
        >>> posterior = prior.posterior((16, 3, 3, 3))
        >>> posterior.rsample().shape, sum(p.numel() for p in posterior.parameters()) / (16 * 3)
        (torch.Size([16, 3, 3, 3]), 8.0)
    """

    def __init__(
        self,
        decoder: FrozenMLP,
        kernel_size: Sequence[int],
        *,
        gain: float = HE_GAIN,
        mean_fraction: float = 0.1,
        init_scale: float = 0.1,
        init_latent_scale: float = 0.1,
        empirical_bayes: bool = False,
    ) -> None:
        self.kernel_size = tuple(int(k) for k in kernel_size)
        linears = decoder.linears()
        self.dim, pixels = linears[0][0].shape[1], linears[-1][0].shape[0]
        if pixels != math.prod(self.kernel_size):
            raise ValueError(
                f"decoder: expected {math.prod(self.kernel_size)} outputs for {_times(self.kernel_size)} "
                f"kernels, found {pixels}"
            )
        if self.dim > 3:
            raise ValueError(f"decoder: expected at most 3 latent dimensions, found {self.dim}")
        nodes, weights = hermite_grid(self.dim, 32 if self.dim < 3 else 16)
        energy = (weights * decoder(nodes.float()).square().sum(-1)).sum().item()
        if not math.isfinite(energy) or energy <= 0:
            raise ValueError("decoder: expected finite numbers, not all zero")
        *hidden, (weight, bias) = linears
        self.decoder = FrozenMLP([*hidden, (weight / math.sqrt(energy), bias / math.sqrt(energy))])
        self.gain = check_positive("gain", gain)
        self.mean_fraction = check_fraction("mean_fraction", mean_fraction)
        self.init_scale = check_positive("init_scale", init_scale)
        self.init_latent_scale = check_positive("init_latent_scale", init_latent_scale)
        self.empirical_bayes = bool(empirical_bayes)

    def decode(self, z: Tensor) -> Tensor:
        """Kernels g(z), (..., dim) -> (..., *kernel_size)."""
        return self.decoder(z).unflatten(-1, self.kernel_size)

    def scales(self, shape: Shape) -> tuple[float, float]:
        """Prior stds (s_a, s_b) of alpha and beta for a weight of ``shape``."""
        if not self.serves(shape):
            found = f"{_times(shape[2:])} kernels" if len(shape) > 2 else "a linear layer"
            raise ValueError(
                f"kernel_size: this prior decodes {_times(self.kernel_size)} kernels, found {found}; "
                f"priors that fit: {', '.join(priors_serving(shape))}"
            )
        total = self.gain / math.sqrt(max(1, shape[1]))
        return total * math.sqrt(1 - self.mean_fraction), total * math.sqrt(self.mean_fraction)

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> EuclideanDecoderPosterior:
        return EuclideanDecoderPosterior(self, shape, device=device, dtype=dtype)

    def sample(self, shape: Shape) -> Tensor:
        alpha_scale, beta_scale = self.scales(shape)
        kernels = self.decoder(torch.randn(*shape[:2], self.dim, dtype=torch.float32))
        alpha, beta = torch.randn(2, *shape[:2], 1)
        weights = alpha_scale * alpha * kernels + beta_scale * beta / math.sqrt(kernels.shape[-1])
        return weights.unflatten(-1, self.kernel_size).to(torch.get_default_dtype())

    def serves(self, shape: Shape) -> bool:
        return tuple(shape[2:]) == self.kernel_size

    # --- checkpoints -----------------------------------------------------------------------------

    @classmethod
    def from_vae(cls, vae: Any, **options: Any) -> EuclideanDecoderPrior:
        """The decoder of a :class:`~topoprior.CoveringVAE` on Euclidean space, as a prior.

        Args:
            vae: with ``likelihood="gaussian"``, trained on kernels.
            options: of the prior.
        """
        if vae.covering.rank:
            raise ValueError(f"vae: expected Euclidean latents, found {vae.covering!r}")
        linears = [(m.weight, m.bias) for m in vae.decoder if isinstance(m, nn.Linear)]
        return cls(FrozenMLP(linears), vae.data_shape, **options)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors to ``folder``, atomically."""
        config = {
            "format": FORMAT,
            "kernel_size": list(self.kernel_size),
            "depth": self.decoder.depth,
            **{option: getattr(self, option) for option in _OPTIONS},
        }
        checkpoints.save(folder, config, self.decoder.state_dict())

    @classmethod
    @checkpoints.on_cpu
    def from_pretrained(cls, name_or_folder: Path | str, **options: Any) -> EuclideanDecoderPrior:
        """A prior shipped with the package, by name, or one saved in a folder.

        Args:
            name_or_folder: "euclidean-3x3", or a folder with config.json and model.safetensors.
            options: override those that were saved: ``gain``, ``mean_fraction``, ``init_scale``,
                ``init_latent_scale``, ``empirical_bayes``.

        Raises:
            CheckpointError: unknown name, missing or damaged file.
            TypeError: an option that there is not.
            ValueError: an option out of its range.
        """
        checkpoints.check_options(options, _OPTIONS)
        shipped = Path(str(resources.files("topoprior"))) / "pretrained" / str(name_or_folder)
        folder = shipped if str(name_or_folder) in _SHIPPED else Path(name_or_folder)
        if not folder.is_dir():
            raise CheckpointError(
                f"{str(name_or_folder)!r} is neither a shipped prior ({', '.join(_SHIPPED)}) nor a folder"
            )
        config, tensors = checkpoints.load(folder, FORMAT)
        try:
            names = [f"{kind}{i}" for i in range(config["depth"]) for kind in ("weight", "bias")]
            if set(tensors) != set(names) or not names:
                raise ValueError(f"expected tensors {names}, found {sorted(tensors)}")
            linears = [(tensors[w], tensors[b]) for w, b in zip(names[::2], names[1::2], strict=True)]
            _check_linears(linears)
            given = {option: config[option] for option in _OPTIONS if option in config}
            saved = cls(FrozenMLP(linears), config["kernel_size"], **given)
        except (KeyError, TypeError, ValueError) as error:
            where = folder / checkpoints.CONFIG
            raise CheckpointError(
                f"{where}: does not describe a Euclidean decoder prior ({error!r})"
            ) from None
        if options:  # apart from the above: what is wrong with them is no fault of the file
            saved = cls(FrozenMLP(linears), config["kernel_size"], **{**given, **options})
        saved.name = str(name_or_folder)
        return saved

    def __repr__(self) -> str:
        return (
            f"EuclideanDecoderPrior(dim={self.dim}, kernel_size={self.kernel_size}, gain={self.gain:.3g}, "
            f"mean_fraction={self.mean_fraction:.3g})"
        )


def _check_linears(linears: Sequence[tuple[Tensor, Tensor]]) -> None:
    width = linears[0][0].shape[-1]
    for i, (weight, bias) in enumerate(linears):
        if weight.dim() != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"layer {i}: expected weight (n, {width}) and bias (n,), found {tuple(weight.shape)}, "
                f"{tuple(bias.shape)}"
            )
        width = weight.shape[0]


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _factory(name: str) -> Callable[[], WeightPrior]:
    return lambda: EuclideanDecoderPrior.from_pretrained(name)


_SHIPPED = ("euclidean-3x3",)
register_format(FORMAT, EuclideanDecoderPrior.from_pretrained)
for _name in _SHIPPED:
    register_prior(_name, _factory(_name))
