"""Work whose result must not depend on where in a program it is first asked for.

What is made inside `torch.inference_mode` can never be differentiated through, inside `torch.device("meta")` it
has no values, inside `torch.func.vmap` random numbers and questions about values raise. All these contexts belong
to the thread that enters them, so a new thread is in none of them. (The default dtype belongs to the process: such
work names its dtypes.)
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_here = threading.local()


def plain(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """``function``, run outside every context of torch that its caller is in: for constructors, and what they find late.

    Example:
        >>> @plain
        ... def ones():
        ...     return torch.ones(2)
        >>> with torch.device("meta"), torch.inference_mode():
        ...     x = ones()
        >>> x.device.type, x.is_inference()
        ('cpu', False)
    """

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if getattr(_here, "is_plain", False):
            return function(*args, **kwargs)
        found: list[_T] = []
        failed: list[BaseException] = []

        def work() -> None:
            _here.is_plain = True
            try:
                found.append(function(*args, **kwargs))
            except BaseException as error:  # raised again where the caller sees it
                failed.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    return wrapper


def on_cpu(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """``function``, to which no default device matters: what it makes, such as indices, is on the CPU, and what it
    computes is where its arguments are.

    Example:
        >>> @on_cpu
        ... def some(x):
        ...     return x[torch.arange(2)]
        >>> with torch.device("meta"):
        ...     some(torch.tensor([1, 2, 3], device="cpu"))
        tensor([1, 2])
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        # Inside a context every operation costs microseconds more, and default devices are contexts. Traced code cannot ask for
        # them; torch.get_default_device would ask the device for its index, which needs a driver, and fails in forked processes.
        if not torch.compiler.is_compiling() and torch._C._len_torch_function_stack() == 0:
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapped


def own(name: str, value: Any) -> Tensor:
    """A copy of numbers that a user gives, float64 on the CPU, for a :func:`plain` constructor to keep.

    Raises:
        ValueError: a tensor that has no values (on the device "meta").
    """
    if isinstance(value, Tensor) and value.is_meta:
        raise ValueError(f'{name}: expected numbers, found a tensor on the device "meta", which has none')
    return torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().clone()


class found_once(property):
    """Like `functools.cached_property`, but found :func:`plain`, and at first use inside `torch.compile` too.

    Two threads may both find it; they find the same.
    """

    def __init__(self, find: Callable[[Any], Any]) -> None:
        name = find.__name__.lstrip("_")
        kept, search = f"_found_{name}", f"_find_{name}"
        slow = plain(find)

        def get(self: Any) -> Any:
            getattr(self, search)()
            return getattr(self, kept)

        # Traced code runs what is marked so as it is. It is not to return the found object itself, but to leave it
        # where traced code looks it up as an attribute.
        def find_if_new(self: Any) -> bool:
            if kept not in self.__dict__:
                self.__dict__[kept] = slow(self)
            return True

        # What torch.compiler.assume_constant_result does, but for importing the compiler: half of the import time.
        find_if_new._dynamo_marked_constant = True  # type: ignore[attr-defined]
        find_if_new.__name__ = search  # by which torch.compile looks it up
        self._find_if_new = find_if_new
        super().__init__(get, doc=find.__doc__)

    def __set_name__(self, owner: type, name: str) -> None:
        setattr(owner, self._find_if_new.__name__, self._find_if_new)
