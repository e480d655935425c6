"""Subsets and splits of labels: stratified, balanced, of their own generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.common.data import DataError
from experiments.common.splits import stratified_indices, train_validation_split
from tests.experiments.priors.test_data import message

seeds = st.integers(0, 2**32)


# Stratified choices


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=80), st.floats(0, 1), seeds)
def test_stratified_follows_the_frequencies(labels: list[int], part: float, seed: int) -> None:
    values = torch.tensor(labels, dtype=torch.int64)
    size = int(part * len(values))
    chosen = stratified_indices(values, size, seed)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (size,)
    assert torch.equal(chosen, chosen.unique())  # increasing, without repetition
    counts = values.bincount(minlength=7)
    quotas = size * counts.double() / max(len(values), 1)
    difference = values[chosen].bincount(minlength=7) - quotas
    assert difference.abs().max() < 1
    assert torch.equal(chosen, stratified_indices(values, size, seed))


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.data())
def test_stratified_is_balanced_on_balanced_labels(classes: int, each: int, data: st.DataObject) -> None:
    labels = torch.arange(classes).repeat(each)
    size = data.draw(st.integers(0, len(labels)))
    counts = labels[stratified_indices(labels, size, data.draw(seeds))].bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1


def test_stratified_uses_its_own_generator() -> None:
    labels = torch.arange(10).repeat(100)
    state = torch.get_rng_state()
    first = stratified_indices(labels, 100, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, stratified_indices(labels, 100, seed=2))
    assert torch.equal(stratified_indices(labels, None, seed=1), torch.arange(1000))
    assert torch.equal(stratified_indices(labels, 1000, seed=1), torch.arange(1000))


def test_stratified_favours_no_class() -> None:
    """With fewer items than classes, each class is chosen by some seed."""
    labels = torch.arange(10).repeat(5)
    seen = torch.cat([labels[stratified_indices(labels, 3, seed)] for seed in range(40)])
    assert seen.unique().tolist() == list(range(10))


@pytest.mark.parametrize("size", [-1, 4])
def test_stratified_size_out_of_range(size: int) -> None:
    with pytest.raises(DataError) as error:
        stratified_indices(torch.tensor([0, 1, 1]), size, seed=0)
    assert message(error) == f"cannot choose {size} of 3 items: choose a size from 0 to 3"


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.floats(0, 0.7), seeds)
def test_train_validation_split_is_a_partition(labels: list[int], fraction: float, seed: int) -> None:
    values = torch.tensor(labels)
    if round(fraction * len(values)) == len(values):
        return
    train, validation = train_validation_split(values, fraction, seed)
    assert len(validation) == round(fraction * len(values))
    assert torch.cat([train, validation]).sort().values.tolist() == list(range(len(values)))
    again = train_validation_split(values, fraction, seed)
    assert torch.equal(train, again[0])
    assert torch.equal(validation, again[1])


def test_train_validation_split_is_stratified() -> None:
    labels = torch.arange(10).repeat(100)
    train, validation = train_validation_split(labels, 0.1, seed=0)
    assert labels[validation].bincount().tolist() == [10] * 10
    assert labels[train].bincount().tolist() == [90] * 10


def test_train_validation_split_errors() -> None:
    with pytest.raises(DataError) as error:
        train_validation_split(torch.tensor([0, 1]), 1.0, seed=0)
    assert message(error) == "validation fraction 1.0: choose at least 0 and less than 1"
    with pytest.raises(DataError) as error:
        train_validation_split(torch.tensor([0, 1]), 0.9, seed=0)
    assert "validation fraction 0.9 of 2 items leaves none to train on" in message(error)
