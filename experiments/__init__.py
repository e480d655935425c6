"""Experiments with topological weight priors: data, training, evaluation, command lines."""
