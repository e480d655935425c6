"""Kernels decoded from points of a space: the topological weight prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topoprior.priors.base import HE_GAIN, Shape, WeightPrior
from topoprior.priors.coordinates import Coordinates
from topoprior.priors.decoded.coordinates import DecodedCoordinates, EuclideanCoordinates
from topoprior.priors.decoded.described import describe, find
from topoprior.priors.decoded.distill import fewest_harmonics
from topoprior.priors.decoded.network import FrozenMLP, hermite_grid
from topoprior.priors.decoded.posterior import DecoderPosterior, EuclideanDecoderPosterior
from topoprior.priors.hub import OnHub, find_folder
from topoprior.priors.registry import priors_serving, register_format, register_prior
from topoprior.spaces.config import covering_from_config, covering_to_config
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.waves import ProductWaves
from topoprior.utils import files as checkpoints
from topoprior.utils.checks import check_fraction, check_int, check_positive
from topoprior.utils.files import CheckpointError

FORMAT = "topoprior.DecoderPrior/1"


class Scales(NamedTuple):
    """Prior stds of a kernel's parts."""

    alpha: float
    beta: float
    residual: float


class DecoderPrior(OnHub, WeightPrior):
    r"""Convolution kernels decoded from a compact flat manifold, such as the Klein bottle:

    .. math:: w_{oi} = \alpha_{oi}\, g(z_{oi}) + \beta_{oi}\, 1 / \sqrt{k} + \tau \epsilon_{oi}, \quad
              z \sim U,\ \alpha \sim N(0, s_a^2),\ \beta \sim N(0, s_b^2),\ \epsilon \sim N(0, I)

    for every kernel of k pixels, from input i to output o. The decoder g is linear in deck-invariant
    harmonics (any smooth decoder is, up to a small error), so it has no seams, and a layer costs a few
    trigonometric functions and one matrix product. It is scaled to E|g(z)|^2 = 1; the scales follow
    from E|w_oi|^2 = s_a^2 + s_b^2 + k tau^2 = gain^2 / in, where in counts the inputs of a group. With the
    default tau = 0 the weights stay on the decoder's image; with tau > 0 the prior has full support.

    The posterior is mean-field: 2 dim + 4 numbers a kernel, 8 on the Klein bottle, against 18 for a
    mean-field normal over 3x3 weights. Its closed-form KL bounds the KL of the weights from above (data
    processing twice: from latents to weights, and from the torus to the space).

    Args:
        harmonics: the features that g reads, on a compact flat manifold whose lattice lies along axes.
        coefficients: (num_features, k), g(z) = harmonics(z) @ coefficients; rescaled to E|g|^2 = 1.
        kernel_size: of the decoded kernels; their product is k.
        gain: He's sqrt(2) by default.
        mean_fraction: s_b^2 as a fraction of the whole.
        init_scale: posterior std of alpha and beta at the start, as a fraction of the prior's.
        init_latent_scale: posterior std of z at the start, in periods.
        residual_fraction: k tau^2 as a fraction of the whole. Costs 2 k more numbers a kernel.
        empirical_bayes: learn factors on s_a, s_b and tau within [1/4, 4] with the posterior, a layer each
            (:class:`~topoprior.priors.empirical_bayes.BoundedScale`).

    Raises:
        ValueError: shapes that do not fit, a space that is not compact or not axis-aligned.

    Example:
        >>> prior = DecoderPrior.from_pretrained("klein-3x3")
        >>> prior.sample((16, 3, 3, 3)).shape
        torch.Size([16, 3, 3, 3])
    """

    def __init__(
        self,
        harmonics: Harmonics,
        coefficients: Tensor,
        kernel_size: Sequence[int],
        *,
        gain: float = HE_GAIN,
        mean_fraction: float = 0.1,
        init_scale: float = 0.03,
        init_latent_scale: float = 0.01,
        residual_fraction: float = 0.0,
        empirical_bayes: bool = False,
    ) -> None:
        space = harmonics.covering
        if not math.isfinite(space.volume) or space.periods is None:
            raise ValueError(
                f"harmonics: expected a compact space with periods along axes, found {space!r}"
            )
        self.kernel_size = _check_kernel_size(kernel_size)
        expected = (harmonics.num_features, math.prod(self.kernel_size))
        if tuple(coefficients.shape) != expected:
            raise ValueError(f"coefficients: expected shape {expected}, found {tuple(coefficients.shape)}")
        mean_fraction = check_fraction("mean_fraction", mean_fraction)
        residual_fraction = check_fraction("residual_fraction", residual_fraction)
        if mean_fraction + residual_fraction >= 1:
            raise ValueError(
                "residual_fraction: expected less than 1 together with mean_fraction, found "
                f"{residual_fraction} + {mean_fraction}"
            )
        norm = coefficients.double().norm()
        if not torch.isfinite(norm) or norm == 0:
            raise ValueError("coefficients: expected finite numbers, not all zero")
        self.harmonics = harmonics
        # The harmonics are orthonormal under the uniform law, so this is E|g(z)|^2 = 1.
        self.coefficients = (coefficients.detach().double() / norm).float().cpu()
        self.waves = ProductWaves(harmonics, self.coefficients)
        self.gain = check_positive("gain", gain)
        self.mean_fraction = mean_fraction
        self.init_scale = check_positive("init_scale", init_scale)
        self.init_latent_scale = check_positive("init_latent_scale", init_latent_scale)
        self.residual_fraction = residual_fraction
        self.empirical_bayes = bool(empirical_bayes)

    @property
    def covering(self) -> FlatManifold:
        return self.harmonics.covering

    def decode(self, z: Tensor) -> Tensor:
        """Kernels g(z) at lifts z, (..., dim) -> (..., *kernel_size)."""
        return (self.harmonics(z) @ self.coefficients.to(z)).unflatten(-1, self.kernel_size)

    def scales(self, shape: Shape) -> Scales:
        """Prior stds of alpha, beta and every pixel of the residual, for a weight of ``shape``."""
        self._check_shape(shape)
        energy = self.gain**2 / max(1, shape[1])
        rest = 1 - self.mean_fraction - self.residual_fraction
        pixels = math.prod(self.kernel_size)
        return Scales(
            math.sqrt(energy * rest),
            math.sqrt(energy * self.mean_fraction),
            math.sqrt(energy * self.residual_fraction / pixels),
        )

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> DecoderPosterior:
        return DecoderPosterior(self, shape, device=device, dtype=dtype)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        return DecodedCoordinates(self, shape, device=device, dtype=dtype)

    def sample(self, shape: Shape) -> Tensor:
        scale = self.scales(shape)
        z = self.covering.sample_uniform(
            torch.Size(shape[:2]), self.coefficients.dtype, torch.device("cpu")
        )
        alpha, beta = torch.randn(2, *shape[:2], *[1] * len(self.kernel_size))
        constant = scale.beta * beta / math.sqrt(math.prod(shape[2:]))
        return scale.alpha * alpha * self.decode(z) + constant + scale.residual * torch.randn(*shape)

    def serves(self, shape: Shape) -> bool:
        return tuple(shape[2:]) == self.kernel_size

    def _check_shape(self, shape: Shape) -> None:
        if not self.serves(shape):
            raise ValueError(
                f"kernel_size: this prior decodes {_times(self.kernel_size)} kernels, found "
                f"{_times(shape[2:]) if len(shape) > 2 else 'a linear layer'}; priors that fit: "
                f"{', '.join(priors_serving(shape))}"
            )

    @classmethod
    def from_decoder(
        cls,
        decode: Callable[[Tensor], Tensor],
        covering: FlatManifold,
        kernel_size: Sequence[int],
        *,
        num_harmonics: int = 32,
        tolerance: float = 1e-5,
        **options: Any,
    ) -> DecoderPrior:
        """Distill a smooth decoder into harmonics: project it on the lowest ones, keep those it uses.

        Args:
            decode: lifts (N, dim) -> kernels (N, *kernel_size), invariant under deck transformations.
            num_harmonics: the lowest ones to project on.
            tolerance: fraction of the energy that the dropped harmonics may hold together.

        Example:
            >>> import topoprior as tp
            >>> from topoprior.kernels.klein import klein_kernels
            >>> DecoderPrior.from_decoder(klein_kernels, tp.KleinBottle(), (3, 3)).harmonics.num_features
            5
        """
        harmonics = Harmonics(covering, num_harmonics)
        points = _grid(covering, 48)
        with torch.no_grad():
            kernels = decode(points.float()).double().flatten(1)
        coefficients = harmonics(points).T @ kernels / len(points)  # the trapezoid rule is exact here
        energy = coefficients.square().sum(1)
        order = energy.argsort()
        dropped = order[energy[order].cumsum(0) <= tolerance * energy.sum()].tolist()
        columns = [c for c in range(num_harmonics) if c not in dropped]
        return cls(harmonics.select(columns), coefficients[columns], kernel_size, **options)

    def simplified(self, kernels: Tensor, *, tolerance: float = 1e-3, **options: Any) -> DecoderPrior:
        """The same prior in the latent coordinates that need the fewest harmonics; faster in a layer.

        Args:
            kernels: those that it was trained on, (N, *kernel_size).
            tolerance: by how much the relative error on ``kernels`` may grow.
            options: of the new prior.
        """
        if tuple(kernels.shape[1:]) != self.kernel_size:
            raise ValueError(
                f"kernels: expected shape (N, {_times(self.kernel_size)}), found {tuple(kernels.shape)}"
            )
        flat = kernels.flatten(1).double()
        scale = flat.square().sum(1).mean().sqrt()
        harmonics, coefficients, _ = fewest_harmonics(
            self.harmonics, self.coefficients, flat / scale, tolerance=tolerance
        )
        given = {option: getattr(self, option) for option in _OPTIONS}
        return DecoderPrior(harmonics, coefficients, self.kernel_size, **{**given, **options})

    # --- checkpoints -------------------------------------------------------------------------

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors to ``folder``, atomically."""
        config = {
            "format": FORMAT,
            "covering": covering_to_config(self.covering),
            "kernel_size": list(self.kernel_size),
            "harmonics": describe(self.harmonics),
            **{option: getattr(self, option) for option in _OPTIONS},
        }
        checkpoints.save(folder, config, {"coefficients": self.coefficients})

    @classmethod
    @checkpoints.on_cpu
    def from_pretrained(
        cls, name_or_folder: Path | str, *, revision: str | None = None, **options: Any
    ) -> DecoderPrior:
        """A prior shipped with the package, by name, one saved in a folder, or one of a model hub.

        Args:
            name_or_folder: "klein-3x3", a folder with config.json and model.safetensors, or "user/name".
            revision: of the hub: a branch, a tag or a commit.
            options: override those that were saved: ``gain``, ``mean_fraction``, ``init_scale``,
                ``init_latent_scale``, ``residual_fraction``, ``empirical_bayes``.

        Raises:
            CheckpointError: unknown name, missing or damaged file.
            TypeError: an option that there is not.
            ValueError: an option out of its range.
        """
        checkpoints.check_options(options, _OPTIONS)
        shipped = {name: _PRETRAINED / name for name in pretrained_names()}
        folder = find_folder(name_or_folder, shipped, revision)
        config, tensors = checkpoints.load(folder, FORMAT)
        where = folder / checkpoints.CONFIG
        try:
            space = covering_from_config(config["covering"])
            if "harmonics" in config:
                harmonics, signs = find(space, config["harmonics"])
            else:  # from before they were written out: their numbers in the library's order
                columns = _check_columns(config["columns"])
                harmonics, signs = (
                    Harmonics(space, max(columns) + 1).select(columns),
                    torch.ones(len(columns)),
                )
            given = _given_options(config, _OPTIONS)
            if set(tensors) != {"coefficients"}:
                raise ValueError(f"expected one tensor, 'coefficients', found {sorted(tensors)}")
            coefficients = tensors["coefficients"] * signs.to(tensors["coefficients"])[:, None]
            saved = cls(harmonics, coefficients, config["kernel_size"], **given)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: does not describe a decoder prior ({error!r})") from None
        if options:  # apart from the above: what is wrong with them is no fault of the file
            saved = cls(harmonics, coefficients, config["kernel_size"], **{**given, **options})
        saved.name = str(name_or_folder)
        return saved

    def __repr__(self) -> str:
        return (
            f"DecoderPrior({self.covering!r}, kernel_size={self.kernel_size}, "
            f"num_harmonics={self.harmonics.num_features}, gain={self.gain:.3g}, "
            f"mean_fraction={self.mean_fraction:.3g})"
        )


def _grid(covering: FlatManifold, side: int) -> Tensor:
    """A regular grid of side^dim points of the lattice cell."""
    line = torch.arange(side, dtype=torch.float64) / side
    return torch.cartesian_prod(*[line] * covering.dim).reshape(-1, covering.dim) @ covering.lattice.T


_OPTIONS = (
    "gain",
    "mean_fraction",
    "init_scale",
    "init_latent_scale",
    "residual_fraction",
    "empirical_bayes",
)
_PRETRAINED = Path(str(resources.files("topoprior.priors"))) / "pretrained"


def pretrained_names() -> list[str]:
    """Decoder priors shipped with the package."""
    return sorted(p.parent.name for p in _PRETRAINED.glob(f"*/{checkpoints.CONFIG}"))


def _check_kernel_size(size: Sequence[int]) -> tuple[int, ...]:
    found = tuple(check_int("kernel_size", k) for k in size)
    if not 1 <= len(found) <= 3:
        raise ValueError(f"kernel_size: expected 1 to 3 numbers, found {found}")
    return found


# What a file may say: more would be slow to build, or no prior that anybody means.
_MOST_COLUMN, _LARGEST_NUMBER = 2048, 1e6


def _check_columns(columns: Any) -> list[int]:
    found = [check_int("columns", column, least=0) for column in columns]
    if len(set(found)) < len(found) or max(found) > _MOST_COLUMN:
        raise ValueError(f"columns: expected different numbers of at most {_MOST_COLUMN}")
    return found


def _given_options(config: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The options that a file holds; what is wrong with their types is said by the constructor."""
    given = {option: config[option] for option in known if option in config}
    if not isinstance(given.get("empirical_bayes", False), bool):
        raise TypeError(f"empirical_bayes: expected true or false, found {given['empirical_bayes']!r}")
    for name, value in given.items():
        if isinstance(value, int | float) and abs(value) > _LARGEST_NUMBER:
            raise ValueError(f"{name}: expected at most {_LARGEST_NUMBER:g}, found {value}")
    return given


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _factory(name: str) -> Any:
    return lambda: DecoderPrior.from_pretrained(name)


register_format(FORMAT, DecoderPrior.from_pretrained)
for _name in pretrained_names():
    register_prior(_name, _factory(_name))

EUCLIDEAN_FORMAT = "topoprior.EuclideanDecoderPrior/1"
_EUCLIDEAN_OPTIONS = ("gain", "mean_fraction", "init_scale", "init_latent_scale", "empirical_bayes")


class EuclideanDecoderPrior(OnHub, WeightPrior):
    r"""Convolution kernels decoded by a frozen network from normal latents:

    .. math:: w_{oi} = \alpha_{oi}\, g(z_{oi}) + \beta_{oi}\, 1 / \sqrt{k}, \quad
              z \sim N(0, I),\ \alpha \sim N(0, s_a^2),\ \beta \sim N(0, s_b^2)

    as in :class:`~topoprior.DecoderPrior`, but with the plane in place of a closed space. No continuous g on
    the plane is a homeomorphism onto the Klein bottle, so the VAE behind "euclidean-3x3" has to tear it
    somewhere (docs/concepts/priors.md has the errors): it is there to compare with.

    The posterior is a mean-field normal over z, alpha and beta: 2 dim + 4 numbers a kernel. Its closed-form
    KL bounds that of the weights from above (data processing).

    Args:
        decoder: the network g, latents (..., dim) -> kernels (..., k); scaled here to E|g(z)|^2 = 1.
        kernel_size: of the decoded kernels; their product is k.
        gain: He's sqrt(2) by default; E|w_oi|^2 = s_a^2 + s_b^2 = gain^2 / in.
        mean_fraction: s_b^2 as a fraction of the whole.
        init_scale: posterior std of alpha and beta at the start, as a fraction of the prior's.
        init_latent_scale: posterior std of z at the start.
        empirical_bayes: learn factors on s_a and s_b (:class:`~topoprior.priors.empirical_bayes.BoundedScale`).

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
        self.kernel_size = _check_kernel_size(kernel_size)
        linears = decoder.linears()
        self.dim, pixels = linears[0][0].shape[1], linears[-1][0].shape[0]
        if pixels != math.prod(self.kernel_size):
            raise ValueError(
                f"decoder: expected {math.prod(self.kernel_size)} outputs for {_times_(self.kernel_size)} "
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
            found = f"{_times_(shape[2:])} kernels" if len(shape) > 2 else "a linear layer"
            raise ValueError(
                f"kernel_size: this prior decodes {_times_(self.kernel_size)} kernels, found {found}; "
                f"priors that fit: {', '.join(priors_serving(shape))}"
            )
        total = self.gain / math.sqrt(max(1, shape[1]))
        return total * math.sqrt(1 - self.mean_fraction), total * math.sqrt(self.mean_fraction)

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> EuclideanDecoderPosterior:
        return EuclideanDecoderPosterior(self, shape, device=device, dtype=dtype)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        return EuclideanCoordinates(self, shape, device=device, dtype=dtype)

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
            "format": EUCLIDEAN_FORMAT,
            "kernel_size": list(self.kernel_size),
            "depth": self.decoder.depth,
            **{option: getattr(self, option) for option in _EUCLIDEAN_OPTIONS},
        }
        checkpoints.save(folder, config, self.decoder.state_dict())

    @classmethod
    @checkpoints.on_cpu
    def from_pretrained(
        cls, name_or_folder: Path | str, *, revision: str | None = None, **options: Any
    ) -> EuclideanDecoderPrior:
        """A prior shipped with the package, by name, one saved in a folder, or one of a model hub.

        Args:
            name_or_folder: "euclidean-3x3", a folder with config.json and model.safetensors, or "user/name".
            revision: of the hub: a branch, a tag or a commit.
            options: override those that were saved: ``gain``, ``mean_fraction``, ``init_scale``,
                ``init_latent_scale``, ``empirical_bayes``.

        Raises:
            CheckpointError: unknown name, missing or damaged file.
            TypeError: an option that there is not.
            ValueError: an option out of its range.
        """
        checkpoints.check_options(options, _EUCLIDEAN_OPTIONS)
        folder = find_folder(name_or_folder, {name: _PRETRAINED / name for name in _SHIPPED}, revision)
        config, tensors = checkpoints.load(folder, EUCLIDEAN_FORMAT)
        try:
            depth = check_int("depth", config["depth"])
            if depth > 100:
                raise ValueError(f"depth: expected at most 100, found {depth}")
            names = [f"{kind}{i}" for i in range(depth) for kind in ("weight", "bias")]
            if set(tensors) != set(names) or not names:
                raise ValueError(f"expected tensors {names}, found {sorted(tensors)}")
            linears = [(tensors[w], tensors[b]) for w, b in zip(names[::2], names[1::2], strict=True)]
            _check_linears(linears)
            given = _given_options(config, _EUCLIDEAN_OPTIONS)
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


def _times_(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _euclidean(name: str) -> Callable[[], WeightPrior]:
    return lambda: EuclideanDecoderPrior.from_pretrained(name)


_SHIPPED = ("euclidean-3x3",)
register_format(EUCLIDEAN_FORMAT, EuclideanDecoderPrior.from_pretrained)
for _shipped in _SHIPPED:
    register_prior(_shipped, _euclidean(_shipped))
