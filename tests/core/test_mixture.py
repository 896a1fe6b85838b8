"""Who is suspect in a group: known shares are found, and where nothing is known nothing is believed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weir.core.mixture import MEMORY, PRIOR, prior, responsibilities, suspect_share, update, update_each


def known_ratios(n: int, share: float, *, seed: int, distance: float = 2.0) -> tuple[Tensor, Tensor]:
    """Likelihood ratios (n, 1) of unit normals so far apart, and which of them are the attack's."""
    generator = torch.Generator().manual_seed(seed)
    hostile = torch.arange(n) < round(share * n)
    x = torch.randn(n, generator=generator) + distance * hostile
    return (distance * x - distance**2 / 2).exp()[:, None], hostile


def empty(attacks: int) -> Tensor:
    """Next to no belief of any kind."""
    return torch.full((attacks + 1,), 1e-6, dtype=torch.float64)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_a_known_share_of_known_ratios_is_found(share: float) -> None:
    found = [suspect_share(update(empty(1), known_ratios(400, share, seed=seed)[0])) for seed in range(10)]
    assert sum(found) / 10 == pytest.approx(share, abs=0.03)
    assert max(abs(one - share) for one in found) < 0.12


def test_under_the_prior_a_share_of_30_percent_is_still_found() -> None:
    ratios, hostile = known_ratios(400, 0.3, seed=1, distance=3.0)
    believed = update(prior(1), ratios)
    assert suspect_share(believed) == pytest.approx(0.3, abs=0.05)
    clean = responsibilities(believed, ratios)[:, 0]
    assert float((clean < 0.5)[hostile].double().mean()) > 0.85
    assert float((clean < 0.5)[~hostile].double().mean()) < 0.07


def test_each_attack_gets_its_own_share() -> None:
    """Three kinds of samples, as certain as can be."""
    ratios = torch.tensor([[1e-3, 1e-3]] * 50 + [[1e3, 1e-3]] * 30 + [[1e-3, 1e3]] * 20)
    counts = update(prior(2), ratios)  # of the prior one sample's worth is left
    assert counts.tolist() == pytest.approx([51, 30, 20], abs=0.3)


@pytest.mark.parametrize("attacks", [1, 4])
@pytest.mark.parametrize("n", [1, 60, 5_000])
def test_ratios_that_say_nothing_leave_belief_at_the_prior(attacks: int, n: int) -> None:
    believed = prior(attacks)
    for _ in range(5):
        believed = update(believed, torch.ones(n, attacks))
        assert suspect_share(believed) == pytest.approx(suspect_share(prior(attacks)), rel=1e-9)
    assert suspect_share(prior(attacks)) == pytest.approx(PRIOR[1] * attacks / (PRIOR[0] + PRIOR[1] * attacks))
    assert bool((responsibilities(believed, torch.ones(n, attacks))[:, 0] > 0.9).all())


def test_one_sample_that_looks_hostile_condemns_no_newcomer() -> None:
    clean = update(prior(1), torch.cat([torch.full((9, 1), 0.3), torch.full((1, 1), 5.0)]))
    assert suspect_share(clean) < 0.05


def test_memory_fades() -> None:
    hostile, clean = torch.full((100, 1), 50.0), torch.full((20, 1), 0.02)
    believed = update(prior(1), hostile)
    assert suspect_share(believed) > 0.9
    shares = []
    for _ in range(10):
        believed = update(believed, clean)
        shares.append(suspect_share(believed))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.6  # not at once …
    assert shares[4] < 0.4  # … but by MEMORY samples for the most part
    assert shares[-1] < 0.15


@pytest.mark.parametrize("n", [1, 10, 99, 100, 700])
def test_belief_is_worth_no_more_than_the_memory_or_the_last_group(n: int) -> None:
    believed = prior(2)
    for _ in range(200 // n + 3):
        believed = update(believed, torch.rand(n, 2, generator=torch.Generator().manual_seed(0)))
        assert float(believed.sum()) <= max(MEMORY, n + 1) + 1e-9
    assert float(believed.sum()) == pytest.approx(max(MEMORY, n + 1))


def test_many_groups_at_once_are_what_each_is_alone() -> None:
    """To the last bit, though some settle long before others."""
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([1, 2, 0, 150, 7, 40, 1, 300])
    group = torch.repeat_interleave(torch.arange(8), sizes)[torch.randperm(int(sizes.sum()), generator=generator)]
    ratios = torch.randn(len(group), 3, generator=generator).mul(2).exp()
    believed = prior(3) * (1 + 9 * torch.rand(8, 1, generator=generator, dtype=torch.float64))
    together = update_each(believed, ratios, group)
    for number in range(8):
        assert torch.equal(together[number], update(believed[number], ratios[group == number]))


@pytest.mark.parametrize("top", [1.0, 1e30, float("1e38")])
def test_responsibilities_sum_to_one_and_are_bayes_rule(top: float) -> None:
    ratios = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * top
    counts = torch.tensor([6.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    found = responsibilities(counts, ratios)
    torch.testing.assert_close(found.sum(1), torch.ones(50, dtype=torch.float64))
    assert bool((found >= 0).all())
    for row in range(5):
        weighed = [0.6, *(share * float(r) for share, r in zip((0.1, 0.2, 0.1), ratios[row], strict=True))]
        assert found[row].tolist() == pytest.approx([w / sum(weighed) for w in weighed])


def test_update_changes_nothing_it_was_given() -> None:
    believed, ratios = prior(2), torch.rand(30, 2)
    kept = believed.clone(), ratios.clone()
    first = update(believed, ratios)
    assert torch.equal(believed, kept[0])
    assert torch.equal(ratios, kept[1])
    assert torch.equal(update(believed, ratios), first)
