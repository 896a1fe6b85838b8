"""Mahalanobis distance against the covariance matrix written out."""

from __future__ import annotations

import pytest
import torch

from weir.core.familiarity import SHRINKAGE, Familiarity


@pytest.mark.parametrize("n", [4, 50], ids=["fewer samples than features", "more"])
def test_the_distance_equals_the_one_with_the_covariance_inverted(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    trusted = torch.randn(n, 6, generator=generator, dtype=torch.float64) * torch.arange(1, 7)
    x = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    centred = trusted - trusted.mean(0)
    covariance = centred.T @ centred / n
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * covariance.trace() / 6 * torch.eye(6, dtype=torch.float64)
    away = x - trusted.mean(0)
    expected = (away @ shrunk.inverse() * away).sum(1)
    torch.testing.assert_close(Familiarity(trusted).distance(x), expected)


def test_what_leaves_the_plane_of_the_data_stands_out() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(200, 2, generator=generator) @ torch.randn(2, 20, generator=generator)
    nudged = flat[:50] + 0.4 * torch.randn(50, 20, generator=generator).sign()
    familiarity = Familiarity(flat[50:])
    assert float(familiarity.distance(nudged).min()) > float(familiarity.distance(flat[:50]).max())


def test_images_are_taken_as_flat_vectors() -> None:
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Familiarity(x).distance(x[:3]), Familiarity(x.flatten(1)).distance(x[:3].flatten(1)))


def test_constant_data_gives_a_finite_distance() -> None:
    assert bool(Familiarity(torch.ones(5, 3)).distance(torch.zeros(2, 3)).isfinite().all())


@pytest.mark.parametrize("features", [6, 200, 3072], ids=["few features", "more than samples", "an image's"])
def test_leaving_one_out_equals_learning_without_it(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    trusted = torch.randn(60, features, generator=generator) * torch.linspace(1, 7, features)
    left_out = [Familiarity(trusted[torch.arange(60) != row]).distance(trusted[row : row + 1]) for row in range(60)]
    known = Familiarity(trusted)
    torch.testing.assert_close(known.leave_one_out(trusted, trusted), torch.cat(left_out), rtol=1e-4, atol=0)
    assert bool((known.distance(trusted) < torch.cat(left_out)).all())


@pytest.mark.parametrize("features", [6, 200], ids=["few features", "more features than samples"])
def test_what_was_made_from_a_trusted_sample_is_measured_without_that_sample(features: int) -> None:
    generator = torch.Generator().manual_seed(1)
    trusted = torch.randn(60, features, generator=generator) * torch.linspace(1, 7, features)
    moved = trusted + 0.5 * torch.randn(60, features, generator=generator).sign()
    without = [Familiarity(trusted[torch.arange(60) != row]).distance(moved[row : row + 1]) for row in range(60)]
    known = Familiarity(trusted)
    torch.testing.assert_close(known.leave_one_out(moved, trusted), torch.cat(without), rtol=1e-4, atol=0)
    if features == 200:  # with the parent in the covariance it would look familiar
        assert bool((known.distance(moved) < 0.9 * torch.cat(without)).all())


def test_a_parent_that_is_trusted_twice_over_is_still_known() -> None:
    """Only one of the two is left out: the other makes it familiar."""
    trusted = torch.randn(30, 40, generator=torch.Generator().manual_seed(2))
    twice = torch.cat([trusted, trusted[:1]])
    alone, doubled = (Familiarity(x).leave_one_out(trusted[:1], trusted[:1]) for x in (trusted, twice))
    assert float(doubled) < 0.5 * float(alone)
