"""A thousand damaged or foreign states into layers: the numbers that were given, or an error that names the entry."""

import random
import warnings

import numpy as np
import pytest
import torch

import topoprior as tp
from tests.robustness.tally import Tally

pytestmark = pytest.mark.slow
COUNT = 1000
DECODED = tp.DecoderPrior.from_pretrained
PRIORS = {
    "klein-3x3": lambda: DECODED("klein-3x3"),
    "klein, gain 1": lambda: DECODED("klein-3x3", gain=1.0),
    "klein, residual": lambda: DECODED("klein-3x3", residual_fraction=0.1),
    "klein, learned": lambda: DECODED("klein-3x3", empirical_bayes=True),
    "torus-3x3": lambda: DECODED("torus-3x3"),
    "klein-fixed": lambda: tp.FixedKernels("klein-3x3"),
    "euclidean-3x3": lambda: tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3"),
    "gaussian": tp.Gaussian,
    "gaussian, 2": lambda: tp.Gaussian(2.0),
    "gaussian, learned": lambda: tp.Gaussian(empirical_bayes=True),
    "laplace": tp.Laplace,
    "student-t": tp.StudentT,
    "student-t, 5": lambda: tp.StudentT(5.0),
    "scale-mixture": tp.ScaleMixture,
    "correlated": tp.CorrelatedGaussian,
}
OTHERS = (None, "x", 3, 2.5, [1.0], {"a": 1}, np.zeros(3), object())


def conv(name, posterior="mean-field"):
    """A learned scale needs widths to be learned from: a point has none."""
    posterior = "mean-field" if "learned" in name else posterior
    return tp.BayesConv2d(2, 4, 3, prior=PRIORS[name](), posterior=posterior)


def same_law(a, b):
    """Whether two layers hold the same numbers under one prior: then a state of one is that of the other."""
    torch.manual_seed(0)
    found = a.draw(), a.kl()
    torch.manual_seed(0)
    other = b.draw(), b.kl()
    return all(torch.equal(x, y) for x, y in zip((*found[0], found[1]), (*other[0], other[1]), strict=True))


def altered(state, rng):
    """What was done to an entry, and which; the state itself is changed."""
    name = rng.choice(list(state))
    value = state[name]
    kind = rng.randrange(14)
    if kind == 0:
        del state[name]
    elif kind == 1:
        state[f"{name}x"] = state.pop(name)
    elif kind == 2:
        state[name] = rng.choice(OTHERS)
    elif kind == 3:
        state[name] = value.flatten() if value.dim() != 1 else value[None, None]
    elif kind == 4:
        state[name] = value[..., :-1] if value.dim() and value.shape[-1] > 1 else value.new_zeros(7)
    elif kind == 5:
        state[name] = torch.complex(value, value)
    elif kind == 6:
        state[name] = value.to(rng.choice((torch.int32, torch.bool, torch.uint8)))
    elif kind == 7:
        state[name] = value.to("meta")
    elif kind == 8:
        state[name] = value.to_sparse()
    elif kind == 9:
        state[name] = torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8)
    elif kind == 10:
        state[name] = torch.full_like(value, rng.choice((torch.nan, torch.inf, -torch.inf)))
    elif kind == 11:
        state[name] = value.to(rng.choice((torch.float16, torch.bfloat16, torch.float64)))
    elif kind == 12:
        state[name] = value + torch.randn_like(value)
    else:
        state[name] = value.new_empty(0)
    return ("missing", "renamed", "no tensor", "flat", "short", "complex", "whole numbers", "meta", "sparse",
            "quantized", "not finite", "precision", "noise", "empty")[kind], name  # fmt: skip


def test_states_that_are_damaged():
    """Right: every entry of the layer is what the state had, or what its prior knows. Clear: RuntimeError as torch.nn's, with
    the entry's name. Wrong: all else."""
    tally, rng = Tally("damaged states of layers"), random.Random(0)
    warnings.simplefilter("ignore")
    for _ in range(COUNT):
        name, posterior = rng.choice(list(PRIORS)), rng.choice(("mean-field", "mean-field", "delta"))
        layer, state = conv(name, posterior), conv(name, posterior).state_dict()
        whole = {key: value.clone() for key, value in state.items()}
        known = {
            f"{path}.{entry}"
            for path, module in layer.named_modules()
            for entry in getattr(module, "prior_buffers", ())
        }
        how, key = altered(state, rng)
        if how == "meta" and key not in known:
            continue  # torch warns, and leaves the parameter as it is
        strict, assign = rng.random() < 0.8, rng.random() < 0.2
        case = f"{name}, {posterior}: {how}, {key}, strict={strict}, assign={assign}"
        try:
            layer.load_state_dict(state, strict=strict, assign=assign)
        except (RuntimeError, ValueError, TypeError) as error:
            tally.clear() if key in str(error) else tally.wrong(f"{case}: {error!r}"[:300])
            continue
        except Exception as error:
            tally.wrong(f"{case}: {error!r}"[:300])
            continue
        found = layer.state_dict()
        for entry, value in whole.items():
            if entry == key and entry not in known and how in ("missing", "renamed") and not strict:
                continue
            given = value if entry in known else state[entry]
            if given.layout != torch.strided or given.is_quantized:
                tally.wrong(f"{case}: loads")
                break
            if not torch.equal(found[entry].double().nan_to_num(7), given.double().nan_to_num(7)):
                tally.wrong(f"{case}: {entry} is another")
                break
        else:
            # What is of no use in arithmetic must not have become a parameter.
            usable = all(t.is_floating_point() and t.layout == torch.strided for t in found.values())
            tally.right() if usable else tally.wrong(f"{case}: no floating-point numbers")
    tally.over()


def test_states_of_another_prior():
    """Each into each: the layer's own law after it, or refused with the entry's name."""
    tally = Tally("states across priors")
    for saved in PRIORS:
        for loading in PRIORS:
            for posterior in ("mean-field", "delta"):
                source, layer = conv(saved, posterior), conv(loading, posterior)
                case = f"{saved} into {loading}, {posterior}"
                try:
                    layer.load_state_dict(source.state_dict())
                except RuntimeError as error:
                    named = "_posterior" in str(error)
                    tally.clear() if named and saved != loading else tally.wrong(f"{case}: {error}"[:300])
                else:
                    tally.right() if same_law(source, layer) else tally.wrong(f"{case}: another law")
    tally.over()
