"""First uses inside every context, each in a process of its own: ``python -m tests.spaces.first_use together klein,lens vmap,jacrev``.

The package is imported, every space is made and used for the first time inside the context; then it is trained with
outside, and compared with a space that knew no context. Processes are forks of this one, which has imported torch
alone; "apart" forks for every space, "together" for every context.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "device_meta": lambda: torch.device("meta"),
    "default_device_meta": lambda: default_device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "nothing": contextlib.nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Any]], Callable[[Tensor], Any]]] = {
    "vmap": torch.func.vmap,
    "jacrev": torch.func.jacrev,
    "grad_of_vmap": lambda f: torch.func.grad(lambda x: torch.func.vmap(f)(x).sum()),
    "compile": lambda f: torch.compile(f, backend="eager", fullgraph=True),
}


def uses(space: Any, x: Tensor) -> Tensor:
    """All that a space does with points, at one point or several."""
    y = space.embed(x)
    back = space.retract(y)
    values = [space.distance(back, space.project(x)), y.sum(-1), space.lifts(x, 0.5).sum((-1, -2))]
    return sum(values, y.new_zeros(())) + space.num_features


def made_inside(make: Callable[[], Any], context: str) -> list[float]:
    """Make a space and use it inside; then outside, where it is trained with: values and gradients."""
    from tests.spaces.cases import onto_cover

    state = torch.get_rng_state()
    if context in TRANSFORMS:
        space = make()
        x = torch.linspace(-0.7, 0.9, 3 * space.cover_dim).view(3, -1)
        TRANSFORMS[context](lambda x: uses(space, x))(x / x.norm(dim=-1, keepdim=True))
    else:
        with CONTEXTS[context]():
            space = make()
            x = torch.ones(3, space.cover_dim, dtype=torch.float64)  # of the context's kind
            uses(space, x / x.norm(dim=-1, keepdim=True))
    assert torch.equal(torch.get_rng_state(), state), "the global random numbers were used"
    x = torch.linspace(-0.7, 0.9, 3 * space.cover_dim, dtype=torch.float64).view(3, -1)
    x = onto_cover(space, x).requires_grad_()
    value = uses(space, x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return torch.cat([value.detach(), slope.flatten()]).tolist()


def in_a_fork(context: str, names: list[str]) -> dict[str, Any]:
    """Values of every space, or what went wrong, found by a process that has not imported the package."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with open(read) as pipe:
            found = pipe.read()
        os.waitpid(child, 0)
        return json.loads(found) if found else dict.fromkeys(names, "the process died")
    found = dict.fromkeys(names, "never tried")
    try:
        with CONTEXTS.get(context, contextlib.nullcontext)():
            from tests.spaces.cases import SPACES
        for name in names:
            try:
                found[name] = made_inside(SPACES[name], context)
            except Exception as error:
                found[name] = "".join(traceback.format_exception(error))
    except BaseException as error:
        found = dict.fromkeys(names, "".join(traceback.format_exception(error)))
    finally:
        with open(write, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)


def failures(names: list[str], contexts: list[str], *, together: bool) -> list[str]:
    """What goes wrong, a line a case; ``together``: one process a context, else one a space and context."""
    groups = [names] if together else [[name] for name in names]
    wrong = []
    for group in groups:
        expected = in_a_fork("nothing", group)
        for context in contexts:
            for name, found in in_a_fork(context, group).items():
                case = f"{name}, first used inside {context}"
                if isinstance(found, str) or isinstance(expected[name], str):
                    wrong.append(f"{case}: {found}")
                elif not torch.allclose(torch.tensor(found), torch.tensor(expected[name]), atol=1e-6):
                    wrong.append(f"{case}: {found}, expected {expected[name]}")
    return wrong


if __name__ == "__main__":
    how, chosen, inside = sys.argv[1:]
    found = failures(chosen.split(","), inside.split(","), together=how == "together")
    print("\n".join(found))
    sys.exit(len(found) > 0)
