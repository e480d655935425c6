"""What Bayesian layers share: a weight posterior, a bias posterior, their KL, and many draws at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from topoprior.nn.sharded import gathered
from topoprior.nn.weights_in_use import Draws, InUse, Unfoldable, rows_of_pass, tell, told
from topoprior.priors.base import WeightPosterior, WeightPrior
from topoprior.priors.delta import posterior_of
from topoprior.priors.mean_field.base import Gaussian
from topoprior.priors.registry import get_prior
from topoprior.utils.checks import check_int
from topoprior.utils.real_module import RealModule, check_dtype

PriorLike: TypeAlias = str | Path | WeightPrior

# Parameters of torch's layers that are drawn in ours.
_DRAWN = ("weight", "bias")

# A bias starts at 0 with this fraction of its unit prior std.
_BIAS_INIT_SCALE = 0.1


class BayesLayer(RealModule):
    """A torch.nn layer whose weights are drawn from a posterior.

    ``forward`` draws fresh weights every time, in training and evaluation alike, unless told otherwise by
    :func:`topoprior.posterior_mean`, :func:`topoprior.frozen_sample`, or

    - ``use_mean``: compute with the posterior mean, in all threads and in copies and pickles too;
    - ``drawn``: compute with these S draws of weight, (S, *weight_shape), and bias, (S, out) or None, on an
      input of S batches one after the other, (S * B, ...): draw s serves the rows s * B to (s + 1) * B.
      It holds for the thread, or task of asyncio, that sets it, and is no part of copies, pickles and states.
    """

    _plain: ClassVar[type[nn.Module]] = nn.Module  # torch's layer of the same name
    _batch_dims = 2  # of an input that is a batch
    use_mean: bool = False
    # Of a replica of nn.DataParallel, which runs in a thread of its own: what its maker's context said.
    _of_maker: InUse | None = None
    #: What :func:`topoprior.to_bayesian` could not represent of the weights it was given, |w - mean| / |w|.
    projection_residual: float | None = None
    #: What :func:`topoprior.summary` adds in words, such as a fallback.
    note: str = ""
    #: The layer's name in the network that :func:`topoprior.to_bayesian` was given.
    converted_from: str = ""

    def _init_posteriors(
        self, shape: tuple[int, ...], bias: bool, prior: PriorLike, posterior: str, device: Any, dtype: Any
    ) -> None:
        check_dtype("dtype", dtype)
        options = {"device": device, "dtype": dtype}
        self.prior = get_prior(prior).for_shape(shape)
        self.prior_name = str(prior)
        if isinstance(prior, WeightPrior):
            self.prior_name = prior.name or type(prior).__name__
        self.weight_posterior = posterior_of(self.prior, shape, posterior, **options)
        self.bias_posterior = None
        if bias:
            unit = Gaussian(1.0, init_scale=_BIAS_INIT_SCALE)
            self.bias_posterior = posterior_of(unit, shape[:1], posterior, **options)
            self._center_bias()

    def reset_parameters(self) -> None:
        """Draw the posterior's start afresh."""
        self.weight_posterior.reset_parameters()
        if self.bias_posterior is not None:
            self.bias_posterior.reset_parameters()
            self._center_bias()

    def _center_bias(self) -> None:
        assert self.bias_posterior is not None
        self.bias_posterior.project_(torch.zeros_like(self.bias_posterior.mean()))

    def posteriors(self) -> list[WeightPosterior]:
        """Of the weight, and of the bias where there is one."""
        return [p for p in (self.weight_posterior, self.bias_posterior) if p is not None]

    @property
    def is_point(self) -> bool:
        """Whether all draws of its weights are the mean."""
        return all(posterior.is_point for posterior in self.posteriors())

    def kl(self) -> Tensor:
        """KL(posterior || prior) of weight and bias in nats: a scalar, without sampling."""
        with gathered(self.posteriors()):
            kl = self.weight_posterior.kl()
            return kl if self.bias_posterior is None else kl + self.bias_posterior.kl()

    def _in_use(self) -> InUse:
        said = told(self)
        if said is None:
            said = self._of_maker
        return InUse(self.use_mean) if said is None else said

    @property
    def drawn(self) -> Draws | None:
        return self._in_use().drawn

    @drawn.setter
    def drawn(self, drawn: Draws | None) -> None:
        use_mean = self._in_use().use_mean
        as_set = drawn is None and use_mean == self.use_mean
        tell({self: None if as_set else InUse(use_mean, drawn)})

    def draw(self, input: Tensor | None = None) -> Draws:
        """Weight and bias for one forward pass, laid out for that of ``input`` where it is given."""
        posterior, of_bias = self.weight_posterior, self.bias_posterior
        if self._in_use().use_mean:
            return posterior.mean(), None if of_bias is None else of_bias.mean()
        weight = posterior.rsample() if input is None else posterior.rsample_for(input)
        return weight, None if of_bias is None else of_bias.rsample()

    def draw_samples(self, num_samples: int, *, antithetic: bool = False) -> Draws:
        """Draw ``num_samples`` weights and biases, keep them in ``drawn`` and return them.

        From then on :meth:`forward` wants ``num_samples`` batches folded into one; ``drawn = None`` ends it.

        Args:
            antithetic: the second half mirrors the noise of the first; ``num_samples`` must be even.

        Raises:
            TypeError: ``num_samples`` is no int.
            ValueError: ``num_samples`` below 1, or odd and antithetic.

        Example:
            >>> from topoprior import BayesLinear
            >>> layer = BayesLinear(4, 2)
            >>> weight, bias = layer.draw_samples(8)
            >>> weight.shape, layer(torch.zeros(8 * 3, 4)).shape
            (torch.Size([8, 2, 4]), torch.Size([24, 2]))
            >>> layer.drawn = None
        """
        num_samples = check_int("num_samples", num_samples)
        size = (num_samples,)
        if self._in_use().use_mean:
            weight, bias = (t if t is None else t.expand(*size, *t.shape) for t in self.draw())
        else:
            of_bias = self.bias_posterior
            with gathered(self.posteriors()):
                weight = self.weight_posterior.rsample(size, antithetic=antithetic)
                bias = None if of_bias is None else of_bias.rsample(size, antithetic=antithetic)
        assert weight is not None
        drawn = self.drawn = weight, bias
        return drawn

    def _run(self, input: Tensor, **options: Any) -> Tensor:
        """The layer's operation with one draw, or with the S of ``drawn``."""
        if isinstance(input, torch.fx.Proxy):
            # To torch.fx a layer is one operation, as torch.nn's own are: draws are no part of a graph.
            tracer = input.tracer
            if tracer.root is self:
                raise TypeError(
                    f"torch.fx: {type(self).__name__} is one operation; trace nn.Sequential(layer)"
                )
            named = {key: value for key, value in options.items() if key == "output_size"}
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input,), named)
        drawn = self.drawn
        if drawn is None:
            if rows_of_pass() and not (self._in_use().use_mean or self.is_point):
                raise Unfoldable(f"{type(self).__name__}: drew one weight in a pass of several draws")
            return self._compute(input, *self.draw(input), **options)
        weight, bias = drawn
        samples = weight.shape[0]
        if input.shape[0] % max(samples, rows_of_pass()):
            raise Unfoldable(
                f"input: expected a multiple of {samples} rows, a batch for each draw in `drawn`, "
                f"found shape {tuple(input.shape)}"
            )
        if samples == 1:
            return self._compute(input, weight[0], None if bias is None else bias[0], **options)
        if input.dim() < self._batch_dims:
            raise ValueError(
                f"{type(self).__name__}: expected a batch, of {self._batch_dims} dimensions, for each of {samples} draws, found "
                f"{tuple(input.shape)} in all; x[None] makes a batch of one example"
            )
        return self._compute_samples(input, weight, bias, **options)

    def _check_width(self, input: Tensor, axis: int, expected: int) -> None:
        """Of an input that draws are about to be folded into: torch would speak of the folded shape."""
        if input.shape[axis] != expected:
            raise ValueError(
                f"{type(self).__name__}: expected an input of size {expected} in dimension {axis}, found {tuple(input.shape)}"
            )

    def _compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
        """The plain operation."""
        raise NotImplementedError

    def _compute_samples(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
    ) -> Tensor:
        """The same for S draws, with input and output (S * B, ...)."""
        biases = [None] * len(weight) if bias is None else bias.unbind()
        parts = input.unflatten(0, (len(weight), -1)).unbind()
        return torch.cat(
            [self._compute(x, w, b, **options) for x, w, b in zip(parts, weight, biases, strict=True)]
        )

    def describe_prior(self) -> str:
        """The prior's name, and what it has besides."""
        options = ["residual"] if getattr(self.prior, "residual_fraction", 0) else []
        options += ["empirical Bayes"] if getattr(self.prior, "empirical_bayes", False) else []
        return f"{self.prior_name} ({', '.join(options)})" if options else self.prior_name

    def __repr__(self) -> str:
        """One line, as torch.nn's layers have; what is inside shows in ``layer.weight_posterior``."""
        point = ", posterior='delta'" if self.is_point else ""
        return f"{type(self).__name__}({self.extra_repr()}, prior={self.describe_prior()!r}{point})"

    def __prepare_scriptable__(self) -> None:
        raise TypeError(
            f"torch.jit.script: {type(self).__name__} draws its weights in Python; script to_deterministic(net) or "
            "freeze_draws(net), or take torch.jit.trace or torch.export"
        )

    def __getattr__(self, name: str) -> Any:
        where = f"to_bayesian(..., exclude={self.converted_from!r})" if self.converted_from else "exclude="
        if name in _DRAWN:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}: it draws one in every forward pass. The mean is "
                f"layer.{name}_posterior.mean(), and topoprior.to_deterministic gives layers that have it. If the layer's "
                f"parent reads it, convert with {where}"
            )
        if hasattr(self._plain, name):
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}, which torch.nn.{self._plain.__name__} has. If the layer's parent "
                f"reads it, convert with {where}"
            )
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DRAWN:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r} to set: it draws one in every forward pass. "
                f"layer.{name}_posterior.project_(w) centers it on given numbers"
            )
        super().__setattr__(name, value)

    def _replicate_for_data_parallel(self) -> BayesLayer:
        replica = super()._replicate_for_data_parallel()
        replica._of_maker = self._in_use()
        return replica
