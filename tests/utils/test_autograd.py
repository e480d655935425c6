"""Values that come with their slopes, against numerical derivatives; what can be looked at."""

import torch

from topoprior.utils.autograd import BLOCK, in_blocks, with_slopes
from topoprior.utils.tracing import is_known_false, values_known


@with_slopes
def product(x, y, *, power=2):
    """x^power sin y."""
    return x**power * y.sin(), power * x ** (power - 1) * y.sin(), x**power * y.cos()


def pair(*shape):
    return [t.requires_grad_() for t in torch.randn(2, *shape, dtype=torch.float64).unbind()]


def test_slopes_are_the_numerical_derivatives_once_and_twice():
    inputs = pair(5)
    assert torch.autograd.gradcheck(lambda x, y: product(x, y, power=3), inputs)
    assert torch.autograd.gradgradcheck(product, inputs)


def test_only_what_needs_a_gradient_gets_one():
    x, y = pair(5)
    (found,) = torch.autograd.grad(product(x.detach(), y).sum(), y)
    torch.testing.assert_close(found, (x**2 * y.cos()).detach())


def test_functions_of_functions():
    x, y = (t.detach() for t in pair(4, 3))
    each = torch.func.vmap(torch.func.grad(lambda x, y: product(x, y).sum()), in_dims=(0, None))(x, y[0])
    torch.testing.assert_close(each, 2 * x * y[0].sin())


def test_pieces_are_the_whole():
    x = torch.randn(3, BLOCK // 2 + 5)
    value, slope = in_blocks(lambda x: (x.square(), 2 * x))(x)
    assert torch.equal(value, x.square())
    assert torch.equal(slope, 2 * x)


def test_values_are_known_outside_of_transformations_alone():
    x, seen = torch.zeros(2), []
    assert values_known(x)
    assert is_known_false(x > 0)
    assert not is_known_false(x == 0)
    torch.func.vmap(lambda t: seen.append(values_known(t)) or t)(x)
    torch.func.grad(lambda t: seen.append(is_known_false(t > 0)) or t.sum())(x)
    assert seen == [False, False]
    assert not values_known(x.to("meta"))
    assert not is_known_false(x.to("meta") > 0)
