"""The laws of a space and of a prior as functions, for spaces and priors of one's own."""

from topoprior.testing.priors import check_prior
from topoprior.testing.spaces import check_covering

__all__ = ["check_covering", "check_prior"]
