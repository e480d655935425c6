"""The laws of a prior of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from topoprior.priors.base import WeightPosterior, WeightPrior
from topoprior.priors.mean_field.base import MeanFieldPrior
from topoprior.priors.mean_field.posterior import MeanFieldPosterior
from topoprior.testing.expect import Expect

_LIMIT = 5.5  # standard errors: 4e-8 a number
_KS = 2.9  # of sqrt(n) D, Kolmogorov-Smirnov: 1e-7
_SHAPES = ((4, 3, 3, 3), (4, 7), (4, 3, 5), (4, 3, 5, 5), (4, 3, 7, 7), (4, 3, 3, 3, 3))
_KINDS = ("exact", "bound", "approximation", "-log p")


def check_prior(
    prior: WeightPrior, shape: Sequence[int] | None = None, *, heavy_tails: bool = False
) -> None:
    """Whether a prior and its posterior keep the laws that layers and samplers count on.

    - shapes of `sample`, `rsample`, `mean`, `kl`; float32 and float64; what is not served is a ValueError;
    - `mean` is the mean of the draws, antithetic ones too; a fresh posterior lies around draws of the prior;
    - `kl` is at least 0, and at least what one number of a kernel tells posterior and prior apart by (no map of the
      weights can add to it); it is the same under autocast and through `sum_kl`, and its gradients are finite;
      of a :class:`~topoprior.MeanFieldPrior` with a density it is what a Monte Carlo estimate says;
    - such a density has mass 1, and draws follow it; E|w_oi|^2 = gain^2 / in where the prior has a gain and no scale;
    - `project_` says how far the mean is from the weights, and goes no farther than 0 is;
    - copies and state dicts keep mean and KL; `latent_mask` fits `loc`;
    - whitened coordinates, where there are any: weights of their draws are draws of the prior, and all lifts of a
      latent are the same weights.

    The global random numbers are left alone, and those used are always the same: a prior passes always or never.
    Over seeds a right prior would fail one of the statistical laws with a probability below 1e-4.

    Args:
        prior: any; draws must come from torch's global random numbers.
        shape: of the weights to try, at least (2, 2, ...); by default the first common one that is served.
        heavy_tails: the prior has no fourth moment, so that the energy of draws cannot be tested.

    Raises:
        AssertionError: names the law, what was expected and what was found.

    Example:
        >>> import topoprior as tp
        >>> tp.testing.check_prior(tp.Laplace())
        >>> class Wider(tp.Laplace):
        ...     def sample_unit(self, shape):
        ...         return 1.2 * super().sample_unit(shape)
        >>> tp.testing.check_prior(Wider())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        AssertionError: Wider(...): draws follow the density: ...
    """
    if not isinstance(prior, WeightPrior):
        raise TypeError(f"prior: expected a WeightPrior, found {type(prior).__name__}")
    expect = Expect(prior)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        served = [s for s in ([shape] if shape is not None else _SHAPES) if prior.serves(s)]
        expect.true("some shape is served", served, "one of " + str(shape or _SHAPES), "none")
        trial = _Trial(prior, tuple(served[0]), expect)
        for other in _SHAPES:
            if not prior.serves(other):
                law = "a shape that is not served is a ValueError"
                expect.raises(law, ValueError, lambda other=other: prior.posterior(other))  # type: ignore[misc]
        trial.shapes()
        if isinstance(prior, MeanFieldPrior) and type(prior).log_prob is not MeanFieldPrior.log_prob:
            trial.density(prior)
        if not heavy_tails:
            trial.energy()
        trial.draws()
        trial.divergence()
        trial.copies()
        trial.projection()
        trial.coordinates()


class _Trial:
    def __init__(self, prior: WeightPrior, shape: tuple[int, ...], expect: Expect) -> None:
        self.prior, self.shape, self.expect = prior, shape, expect

    def posterior(self, rows: int | None = None, columns: int | None = None) -> WeightPosterior:
        return self.prior.posterior((rows or self.shape[0], columns or self.shape[1], *self.shape[2:]))

    def shapes(self) -> None:
        expect, shape = self.expect, self.shape
        drawn = self.prior.sample(shape)
        expect.shape("sample", drawn, shape)
        expect.finite("sample", drawn)
        expect.true("draws differ", not torch.equal(drawn, self.prior.sample(shape)), "others", "the same")
        for dtype in (torch.float32, torch.float64):
            posterior = self.prior.posterior(shape, dtype=dtype)
            for sample_shape in ((), (5,), (4, 2), (0,)):
                expect.shape("rsample", posterior.rsample(sample_shape), (*sample_shape, *shape))
            expect.shape("shape of the posterior", torch.empty(posterior.shape), shape)
            expect.shape("mean", posterior.mean(), shape)
            expect.shape("kl", posterior.kl(), ())
            for found in (posterior.rsample(), posterior.mean(), posterior.kl()):
                expect.dtype("dtype", found, dtype)
                expect.finite("a fresh posterior", found)
        kind = posterior.kl_kind
        expect.true("kl_kind is known", kind in _KINDS, f"one of {_KINDS}", kind)
        mask = posterior.latent_mask()
        if mask is not None:
            expect.shape("latent_mask has the shape of loc", mask, posterior.loc.shape)
            expect.dtype("latent_mask", mask, torch.bool)
        for odd in ((3,), ()):
            call = lambda odd=odd: posterior.rsample(odd, antithetic=True)  # noqa: E731
            expect.raises("antithetic draws need an even number", ValueError, call)

    def density(self, prior: MeanFieldPrior) -> None:
        """On a grid of logarithms, both signs: scales of any size are seen."""
        y = torch.linspace(-25, 25, 100_001, dtype=torch.float64)
        one = torch.ones(prior.num_scales, dtype=torch.float64).squeeze()
        masses = torch.stack([(prior.log_prob(sign * y.exp(), one) + y).exp() for sign in (-1, 1)])
        masses = torch.cat([masses[0].flip(0), masses[1]]) * (y[1] - y[0])
        total = masses.sum()
        self.expect.close("the density has mass 1", total, torch.ones_like(total), 2e-3)
        values = torch.cat([-y.exp().flip(0), y.exp()])
        drawn = prior.sample_unit((200, 100)).flatten().double().sort().values
        above = (masses.cumsum(0) - masses / 2)[
            torch.searchsorted(values, drawn).clamp_max(len(values) - 1)
        ]
        steps = torch.arange(len(drawn), dtype=torch.float64) / len(drawn)
        gap = torch.maximum(above - steps, steps + 1 / len(drawn) - above).max()
        self.expect.at_most("draws follow the density", gap, _KS / math.sqrt(len(drawn)) + 2e-3)

    def energy(self) -> None:
        """E|w_oi|^2 = gain^2 / in, or k times the variance that the prior states."""
        inputs, gain = 40, getattr(self.prior, "gain", None)
        shape = (400, inputs, *self.shape[2:])
        if isinstance(self.prior, MeanFieldPrior):
            expected = math.prod(shape[2:]) * self.prior.std(shape) ** 2
        elif gain is not None:
            expected = gain**2 / inputs
        else:
            return
        found = self.prior.sample(shape).flatten(1).double().view(400 * inputs, -1).square().sum(-1)
        error = (found.mean() - expected).abs()
        law = "draws have the energy that the prior states"
        self.expect.at_most(law, error, _LIMIT * found.std() / math.sqrt(len(found)))

    def draws(self) -> None:
        expect, posterior = self.expect, self.posterior(2, 2)
        for antithetic in (False, True):
            with torch.no_grad():
                drawn = posterior.rsample((20_000,), antithetic=antithetic).double()
            error = (drawn.mean(0) - posterior.mean()).abs()
            if antithetic:  # pairs are independent of one another
                drawn = (drawn[:10_000] + drawn[10_000:]) / 2
            limit = _LIMIT * drawn.std(0) / math.sqrt(len(drawn)) + 1e-5 * drawn.abs().amax()
            expect.at_most("mean is the mean of the draws", error, limit)
        posterior = self.posterior(64, 32)
        with torch.no_grad():
            pair = (posterior.rsample(), self.prior.sample(posterior.shape))
            start, drawn = (w.reshape(2048, -1).square().sum(-1).median() for w in pair)
        expect.at_most(
            "a fresh posterior lies around draws of the prior", (start / drawn).log().abs(), 0.25
        )

    def divergence(self) -> None:
        expect = self.expect
        both = [self.posterior(), self.posterior()]
        kls = torch.stack([posterior.kl() for posterior in both])
        if both[0].is_point:
            return
        expect.at_least("kl is at least 0", kls, -1e-5 * kls.detach().abs().max())
        joined = type(both[0]).sum_kl(both)
        expect.close("sum_kl is the sum of kl", joined, kls.sum(), 1e-4 * kls.detach().abs().sum())
        with torch.autocast("cpu", torch.bfloat16):
            cast = both[0].kl()
        expect.close("autocast leaves kl as it is", cast, kls[0], 1e-6 * kls[0].detach().abs())
        (both[0].rsample().square().sum() + kls[0]).backward()
        for name, parameter in both[0].named_parameters():
            slope = parameter.grad if parameter.grad is not None else torch.tensor(math.nan)
            expect.finite(f"the gradient of {name}", slope)
        self.against_marginals()
        if (
            isinstance(self.prior, MeanFieldPrior)
            and type(self.prior).log_prob is not MeanFieldPrior.log_prob
        ):
            self.against_monte_carlo()

    def against_marginals(self) -> None:
        """One kernel along its mean: the KL of histograms, which in expectation is off by bins / draws."""
        posterior, bins, count = self.posterior(1, 1), 40, 20_000
        with torch.no_grad():
            direction = posterior.mean().flatten()
            kl = posterior.kl()
            ours = posterior.rsample((count,)).reshape(count, -1) @ direction
            theirs = self.prior.sample((count // 10, *posterior.shape[1:])).flatten(1) @ direction
        edges = torch.cat([ours, theirs.repeat(10)]).quantile(torch.arange(1, bins) / bins)
        q, p = (
            torch.bincount(torch.bucketize(values, edges), minlength=bins).double() + 0.5
            for values in (ours, theirs)
        )
        q, p = q / q.sum(), p / p.sum()
        least = (q * (q / p).log()).sum()
        law = "kl is at least what one number of a kernel says"
        self.expect.at_least(law, kl.double(), 0.8 * least - 0.1)

    def against_monte_carlo(self) -> None:
        posterior = self.prior.posterior((2, 2, *self.shape[2:]), dtype=torch.float64)
        if not isinstance(posterior, MeanFieldPosterior):
            return
        with torch.no_grad():
            w = posterior.rsample((50_000,))
            normal = torch.distributions.Normal(posterior.loc, posterior.log_scale.exp())
            terms = normal.log_prob(w) - posterior.prior.log_prob(w, posterior.scale())
            terms = terms.flatten(1).sum(-1)
            if not terms.isfinite().all():
                return  # the posterior reaches beyond the support: there is no KL to compare with
            error, limit = (
                (posterior.kl() - terms.mean()).abs(),
                _LIMIT * terms.std() / math.sqrt(len(terms)),
            )
        self.expect.at_most("kl is what a Monte Carlo estimate says", error, limit + 1e-3)

    def copies(self) -> None:
        posterior, loaded = self.posterior(), self.posterior()
        loaded.load_state_dict(posterior.state_dict(), strict=True)
        for same, how in ((copy.deepcopy(posterior), "a copy"), (loaded, "a state dict")):
            for name in ("mean", "kl"):
                found, expected = getattr(same, name)(), getattr(posterior, name)()
                self.expect.close(f"{how} keeps the {name}", found, expected, 0)
        before = posterior.mean().detach().clone()
        posterior.reset_parameters()
        new = not torch.equal(posterior.mean(), before)
        self.expect.true("reset_parameters starts from another draw", new, "another mean", "the same")

    def projection(self) -> None:
        expect, posterior = self.expect, self.posterior()
        weight = self.prior.sample(self.shape)
        left = posterior.project_(weight)
        found = (weight - posterior.mean().detach()).norm() / weight.norm()
        expect.close("project_ returns how far the mean is from the weights", left, found, 1e-3)
        expect.at_most("project_ is no farther from the weights than 0 is", left, 1.001)
        wrong = lambda: posterior.project_(weight[0])  # noqa: E731
        expect.raises("project_ names weights of another shape", ValueError, wrong)

    def coordinates(self) -> None:
        expect = self.expect
        try:
            coordinates = self.prior.coordinates((64, 32, *self.shape[2:]))
        except ValueError:
            return  # the interface's word for having none
        x = coordinates.sample()
        weight = coordinates.weight(x)
        expect.shape("weights of coordinates", weight, (64, 32, *self.shape[2:]))
        expect.finite("log_prob of coordinates", coordinates.log_prob(x))
        for name, part in coordinates.parts.items():
            if (space := part.law.space) is not None:
                for lift in space.lifts(x[name], 1.1 * space.shortest_loop).unbind(-2):
                    same = coordinates.weight({**x, name: lift})
                    law = "all lifts of a latent are the same weights"
                    expect.close(law, same, weight, 1e-3 * weight.detach().abs().max())
        pair = (weight, self.prior.sample(weight.shape))
        first, second = (w.detach().reshape(2048, -1).norm(dim=-1).sort().values for w in pair)
        gap = _two_sample(first, second)
        law = "weights of drawn coordinates are draws of the prior"
        expect.at_most(law, gap, _KS * math.sqrt(2 / 2048))


def _two_sample(first: Tensor, second: Tensor) -> Tensor:
    """The greatest distance between two empirical distribution functions, of sorted values."""
    at = torch.cat([first, second])
    shares = [torch.searchsorted(values, at, right=True) / len(values) for values in (first, second)]
    return (shares[0] - shares[1]).abs().max()
