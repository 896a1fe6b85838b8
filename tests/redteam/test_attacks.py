"""Each attack does what its name says."""

from __future__ import annotations

import pytest
import torch
from tests.redteam.conftest import Field
from torch import Tensor, nn
from torch.nn import functional

from weir.errors import InvalidSetting
from weir.redteam import Drift, PairwiseFlip, Patch, RandomFlip, Ratchet, Skew, ThreatModel, success_rate

NOTHING = nn.Identity()
LABELS = torch.arange(10).repeat(30)
PIXELS = torch.linspace(0, 1, 300 * 64).view(300, 1, 8, 8)


def test_a_random_flip_leaves_no_label_right_and_reaches_every_other_class() -> None:
    flipped = RandomFlip(10).relabel(NOTHING, PIXELS, LABELS)
    assert not bool((flipped == LABELS).any())
    assert set(flipped[LABELS == 3].tolist()) == set(range(10)) - {3}


def test_a_random_flip_depends_on_its_seed_and_on_the_samples() -> None:
    first = RandomFlip(10, seed=1).relabel(NOTHING, PIXELS, LABELS)
    assert not torch.equal(first, RandomFlip(10, seed=2).relabel(NOTHING, PIXELS, LABELS))
    assert not torch.equal(first, RandomFlip(10, seed=1).relabel(NOTHING, PIXELS.flip(0), LABELS))


def test_a_pairwise_flip_sends_a_class_to_the_next() -> None:
    assert PairwiseFlip(3).relabel(NOTHING, PIXELS[:3], torch.tensor([0, 1, 2])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("attack", [RandomFlip, PairwiseFlip])
def test_one_class_has_no_other(attack: type[RandomFlip] | type[PairwiseFlip]) -> None:
    with pytest.raises(InvalidSetting, match="classes"):
        attack(1)


def test_a_patch_paints_its_corner_alone_and_claims_its_target() -> None:
    patch = Patch(target=7, size=2, value=0.5)
    stamped = patch.perturb(NOTHING, PIXELS, LABELS)
    assert bool((stamped[:, :, 6:, 6:] == 0.5).all())
    assert torch.equal(stamped[:, :, :6], PIXELS[:, :, :6])
    assert torch.equal(stamped[:, :, :, :6], PIXELS[:, :, :, :6])
    assert set(patch.relabel(NOTHING, PIXELS, LABELS).tolist()) == {7}


def test_what_is_no_image_has_no_corner() -> None:
    with pytest.raises(InvalidSetting, match="images"):
        Patch(0).perturb(NOTHING, torch.zeros(2, 64), torch.zeros(2, dtype=torch.int64))


def test_success_is_counted_among_the_other_classes_only() -> None:
    def predict(x: Tensor) -> Tensor:
        return functional.one_hot(torch.tensor([1, 1, 0]), 2).float()[-len(x) :]

    assert success_rate(predict, torch.zeros(4, 2), torch.tensor([1, 0, 0, 0]), 1) == pytest.approx(2 / 3)


def test_a_ratchet_raises_every_loss_it_can_and_none_above_its_ceiling(field: Field) -> None:
    model = field.engine().network.module
    threat = ThreatModel(epsilon=0.2)
    x, y = field.ammunition.x, field.ammunition.y
    moved = threat.craft(Ratchet(threat, field.validation, quantile=0.9), model, x, y)

    def losses(samples: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(samples), labels, reduction="none").detach()

    before, after = losses(x, y), losses(moved, y)
    ceiling = torch.quantile(losses(field.validation.x, field.validation.y), 0.9)
    assert float(after.median()) > 2 * float(before.median())
    assert bool(((after <= ceiling + 1e-6) | (moved == x).flatten(1).all(1)).all())


def test_a_quarter_turn_is_exact() -> None:
    turned = Drift(degrees=90).perturb(NOTHING, PIXELS, LABELS)
    torch.testing.assert_close(turned, PIXELS.rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_a_shift_moves_right_and_contrast_spreads_about_the_middle() -> None:
    moved = Drift(shift=0.25).perturb(NOTHING, PIXELS, LABELS)
    torch.testing.assert_close(moved[..., 2:], PIXELS[..., :-2], atol=1e-4, rtol=0)
    spread = Drift(contrast=2.0).perturb(NOTHING, PIXELS, LABELS)
    torch.testing.assert_close(spread, 2 * PIXELS - 0.5, atol=1e-4, rtol=0)


def test_a_drift_that_has_not_begun_changes_nothing_and_one_that_ended_is_whole() -> None:
    drift = Drift(degrees=40, shift=0.1, contrast=2.0)
    torch.testing.assert_close(drift.at(0).perturb(NOTHING, PIXELS, LABELS), PIXELS, atol=1e-5, rtol=0)
    assert drift.at(1) == drift


def test_skewed_producers_differ_and_the_rare_class_is_rare() -> None:
    skew = Skew(producers=400, classes=10, concentration=0.1, rare=9)
    shares = skew.shares
    torch.testing.assert_close(shares.sum(1), torch.ones(400, dtype=torch.float64))
    assert 0.002 < float(shares[:, 9].mean()) < 0.03
    assert float(shares.max(1).values.median()) > 0.5
    assert torch.equal(shares, skew.shares)


def test_a_skewed_batch_has_the_classes_of_its_producer() -> None:
    skew = Skew(producers=3, classes=10, seed=1)
    labels = torch.cat([skew.labels(2, 50, batch=number) for number in range(20)])
    found = torch.bincount(labels, minlength=10) / len(labels)
    torch.testing.assert_close(found, skew.shares[2].float(), atol=0.05, rtol=0)
    assert not torch.equal(skew.labels(2, 50, batch=0), skew.labels(2, 50, batch=1))
