"""Ten thousand random arguments of layers, beside the verdict of torch's layer of that name."""

import random
import warnings

import pytest
import torch

import topoprior as tp
from tests.robustness.tally import Tally

pytestmark = pytest.mark.slow
COUNT = 10_000
PAIRS = {
    "Linear": (torch.nn.Linear, tp.BayesLinear, 0),
    "Conv1d": (torch.nn.Conv1d, tp.BayesConv1d, 1),
    "Conv2d": (torch.nn.Conv2d, tp.BayesConv2d, 2),
    "Conv3d": (torch.nn.Conv3d, tp.BayesConv3d, 3),
    "ConvTranspose2d": (torch.nn.ConvTranspose2d, tp.BayesConvTranspose2d, 2),
}
CHANNELS = (1, 2, 3, 4, 6, 0, -1, 2.0, "3", None, True)
SIZES = (1, 2, 3, 3, 3, (3, 2), (3,), (2, 2, 2), 0, -1, 2.5, "3", None, [3, 3])
STEPS = (1, 1, 1, 2, (2, 1), (1, 2, 1), 0, -1, 1.5, "1", None)
PADS = (0, 1, 2, (1, 0), "same", "valid", "full", -1, 1.5, None)
OPTIONS = {
    "stride": STEPS,
    "padding": PADS,
    "dilation": STEPS,
    "groups": (1, 1, 2, 3, 0, -1, 1.5, "1", None),
    "bias": (True, False),
    "padding_mode": ("zeros", "reflect", "circular", "replicate", "none", None),
    "dtype": (None, torch.float32, torch.float64, torch.int32, torch.complex64),
    "output_padding": (0, 0, 1, -1, (1, 0)),
}


def draw(name, dim, rng):
    sizes = CHANNELS[:5] if rng.random() < 0.8 else CHANNELS
    given = [rng.choice(sizes), rng.choice(sizes)]
    options = {}
    if dim:
        given.append(rng.choice(SIZES if rng.random() < 0.3 else SIZES[:5]))
    for option, values in OPTIONS.items():
        if option == "output_padding" and "Transpose" not in name:
            continue
        if not dim and option not in ("bias", "dtype"):
            continue
        if rng.random() < 0.2:
            options[option] = rng.choice(values)
    return given, options


def verdict(kind, given, options, x):
    """Output shape, or the error."""
    try:
        layer = kind(*given, **options)
        with torch.no_grad():
            return tuple(layer(x).shape)
    except Exception as error:
        return error


def test_layers_take_what_torchs_take():
    """Right: the same shape. Clear: both refuse, or ours does at once and by name. Wrong: ours takes what torch's does
    not, another shape, or an error of another kind."""
    tally, rng = Tally("arguments of layers"), random.Random(0)
    warnings.simplefilter("ignore")
    stricter: list[str] = []
    for _ in range(COUNT):
        name = rng.choice(list(PAIRS))
        theirs, ours, dim = PAIRS[name]
        given, options = draw(name, dim, rng)
        channels = given[0] if isinstance(given[0], int) and given[0] > 0 else 2
        dtype = options.get("dtype")
        x = torch.randn(
            2, channels, *[7] * dim, dtype=dtype if dtype in (torch.float32, torch.float64) else None
        )
        case = f"{name}(*{given}, **{options})"
        expected = verdict(theirs, given, options, x)
        found = verdict(ours, given, {**options, "prior": "gaussian"}, x)
        if isinstance(found, Exception):
            if isinstance(expected, Exception):
                known = isinstance(found, ValueError | TypeError) or type(found) is type(expected)
                tally.clear() if known else tally.wrong(f"{case}: {found!r}, torch {expected!r}")
            else:
                stricter.append(f"{case}: {found}")
                tally.error(found, case=case)
        elif isinstance(expected, Exception):
            tally.wrong(f"{case}: {found}, torch {expected!r}")
        else:
            tally.right() if found == expected else tally.wrong(f"{case}: {found}, torch {expected}")
    print(f"\nrefused by name though torch takes them: {len(stricter)}, such as {stricter[:3]}")
    tally.over()
