"""Conformal p-values, thresholds and group statistics: exact by hand, and their rates on many clean draws."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Protocol

import pytest
import torch
from torch import Tensor

from weir.core.calibration import (
    Calibration,
    Scores,
    Trusted,
    conformal_quantile,
    group_threshold,
    smallest_size,
)
from weir.core.vaccine import Labelled, Vaccine, folds_of
from weir.errors import InvalidProbe


class Draw(Protocol):
    def __call__(self, n: int, *, seed: int) -> Tensor: ...


def gaussian(n: int, *, seed: int) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def cauchy(n: int, *, seed: int) -> Tensor:
    """Heavy tails, no mean, and columns that hang together."""
    common = torch.empty(n, 1).cauchy_(generator=torch.Generator().manual_seed(seed))
    own = torch.empty(n, 3).cauchy_(generator=torch.Generator().manual_seed(seed + 1))
    return common + own


def tied(n: int, *, seed: int) -> Tensor:
    """Mostly exact zeros, as a discrepancy is while the snapshot equals the model."""
    values = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return values * (values > 1)


DRAWS = [gaussian, cauchy, tied]


def calibration(
    evidence: Tensor, *, rate: float = 0.05, labels: Tensor | None = None, per_class: int = 10**6
) -> Calibration:
    """Calibrated with evidence of trusted samples, of one class if no labels are given."""
    labels = zeros(len(evidence)) if labels is None else labels
    return Calibration(Trusted(evidence, labels, None), rate=rate, per_class=per_class)


def score(calibrated: Calibration, evidence: Tensor, y: Tensor) -> Scores:
    """Calibrated scores of evidence as it was measured."""
    return calibrated.score(calibrated.standardise(evidence), y)


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


def statistic(calibrated: Calibration, mean: Tensor, classes: Mapping[int, int]) -> float:
    """Of one group."""
    return float(calibrated.group_statistics(mean[None], [classes]))


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.05, 19), (0.01, 99), (0.03, 33), (0.001, 999)])
def test_the_smallest_size_is_where_a_pvalue_first_reaches_the_rate(rate: float, needed: int) -> None:
    assert smallest_size(rate) == needed
    assert 1 / (needed + 1) <= rate < 1 / needed


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.2])
def test_the_smallest_size_is_taken_and_one_less_is_refused_with_the_n_it_needs(rate: float) -> None:
    needed = smallest_size(rate)
    calibration(gaussian(needed, seed=1), rate=rate)
    with pytest.raises(InvalidProbe, match=f"at least {needed} for") as raised:
        calibration(gaussian(needed - 1, seed=1), rate=rate)
    assert raised.value.code == "probe_too_small"
    assert f"{needed - 1} samples" in raised.value.seen


def test_the_conformal_quantile_is_an_order_statistic() -> None:
    scores = torch.arange(99, 0, -1).float()  # 1 … 99
    assert conformal_quantile(scores, 0.01) == 99
    assert conformal_quantile(scores, 0.05) == 95
    assert conformal_quantile(scores, 0.5) == 50


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_the_sample_rate_holds_on_clean_draws(draw: Draw, rate: float) -> None:
    """40 probe sets, 10,000 fresh samples: the rate holds on average over probe sets."""
    suspected = below = 0
    for seed in range(40):
        calibrated = calibration(draw(200, seed=100 * seed), rate=rate)
        scores = score(calibrated, draw(250, seed=100 * seed + 50), zeros(250))
        suspected += int((scores.score > scores.threshold).sum())
        below += int((scores.p <= rate).sum())
    assert suspected == below  # the threshold and the p-value say the same
    # One set's rate is Beta distributed, so the mean of 40 has a standard error of 0.12 and 0.25 points.
    slack = 3.5 * (rate * (1 - rate) / 200 / 40 + rate / 10_000) ** 0.5
    assert suspected / 10_000 <= rate + slack
    if draw is not tied:
        assert suspected / 10_000 >= rate - slack - 1 / 201


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("size", [5, 100, 1_000])
def test_the_group_rate_holds_on_clean_draws(draw: Draw, size: int) -> None:
    """Steps of any size, each with a fresh probe set: 2,000 draws at 1 %."""
    rate, alarms, trials = 0.01, 0, 2_000 if size <= 100 else 400
    for trial in range(trials):
        evidence = draw(200 + size, seed=3 * trial)
        calibrated = calibration(evidence[:200])
        normal = score(calibrated, evidence[200:], zeros(size)).normal
        alarms += statistic(calibrated, normal.mean(0), {0: size}) > group_threshold(rate, normal.shape[1])
    assert alarms / trials <= rate + 3 * (rate / trials) ** 0.5


def test_a_group_that_is_shifted_a_little_stands_out_where_no_sample_does() -> None:
    calibrated = calibration(gaussian(400, seed=1), rate=0.01)
    shifted = gaussian(200, seed=2) + 0.8
    scores = score(calibrated, shifted, zeros(200))
    assert float((scores.score > scores.threshold).float().mean()) < 0.2
    assert statistic(calibrated, scores.normal.mean(0), {0: 200}) > group_threshold(1e-6, 4)


def test_the_group_statistic_by_hand() -> None:
    calibrated = calibration(gaussian(50, seed=1))
    mean = torch.tensor([0.1, 0.4, -2.0])
    assert statistic(calibrated, mean, {0: 50}) == pytest.approx(0.4 / (1 / 50 + 1 / 50) ** 0.5)
    assert statistic(calibrated, mean, {0: 10**9}) == pytest.approx(0.4 * 50**0.5)


def test_a_group_is_measured_against_so_many_trusted_samples_as_its_classes_have() -> None:
    labels = torch.tensor([0] * 40 + [1] * 10)
    calibrated = calibration(gaussian(50, seed=1), labels=labels)
    mean = torch.tensor([0.5])
    assert statistic(calibrated, mean, {1: 50}) == pytest.approx(0.5 / (1 / 50 + 1 / 10) ** 0.5)
    mixed = 0.8**2 / 40 + 0.2**2 / 10
    assert statistic(calibrated, mean, {0: 40, 1: 10}) == pytest.approx(0.5 / (1 / 50 + mixed) ** 0.5)
    assert statistic(calibrated, mean, {7: 50}) == pytest.approx(0.5 / (1 / 50 + 1) ** 0.5)  # a class unseen


def test_a_group_of_the_hard_class_alone_is_not_suspect_for_being_hard() -> None:
    """500 groups of one class whose every signal lies half a standard deviation above the others', at 1 %."""
    rate, alarms, trials = 0.01, 0, 500
    labels = torch.arange(300) % 3
    hard = (labels == 2).float()[:, None] * 0.5
    for trial in range(trials):
        evidence = gaussian(400, seed=3 * trial)
        calibrated = calibration(evidence[:300] + hard, labels=labels)
        fresh = evidence[300:] + 0.5
        normal = score(calibrated, fresh, torch.full((100,), 2)).normal
        alarms += statistic(calibrated, normal.mean(0), {2: 100}) > group_threshold(rate, normal.shape[1])
    assert alarms / trials <= rate + 3 * (rate / trials) ** 0.5


def test_the_group_threshold_shares_the_rate_among_the_columns() -> None:
    assert group_threshold(0.025, 1) == pytest.approx(1.96, abs=1e-3)
    assert group_threshold(0.05, 10) == pytest.approx(NormalDist().inv_cdf(0.995))


def test_the_mean_discrepancy_threshold_by_hand() -> None:
    evidence = gaussian(50, seed=1)
    trusted = evidence[:, 0]
    expected = trusted.mean() + 1.6449 * trusted.std() * (1 / 25 + 1 / 50) ** 0.5
    assert calibration(evidence).mean_discrepancy_threshold(25, 0.05) == pytest.approx(float(expected), rel=1e-4)


def test_the_score_is_fishers_combination_against_what_is_trusted() -> None:
    evidence = gaussian(50, seed=1)
    fresh = gaussian(6, seed=2)
    by_hand = [
        sum(-2 * float(torch.tensor((1 + int((evidence[:, k] >= v).sum())) / 51).log()) for k, v in enumerate(row))
        for row in fresh
    ]
    assert score(calibration(evidence), fresh, zeros(6)).score.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_a_threshold_of_exactly_zero_is_honoured() -> None:
    """All trusted evidence alike: every p-value is 1, every score 0, and so is the threshold."""
    calibrated = calibration(torch.zeros(40, 3))
    assert calibrated.sample_threshold == 0.0
    fresh = torch.zeros(2, 3)
    fresh[1, 0] = 1e-6
    scores = score(calibrated, fresh, zeros(2))
    assert (scores.score > scores.threshold).tolist() == [False, True]
    assert scores.p.tolist() == pytest.approx([1.0, 1 / 41])


def test_a_class_with_enough_samples_has_a_threshold_of_its_own() -> None:
    """Class 1 is ten times as spread as class 0; class 2 is too small for a threshold of its own."""
    labels = torch.tensor([0] * 120 + [1] * 120 + [2] * 10)
    spread = torch.tensor([1.0, 10.0, 1.0])[labels][:, None]
    evidence = gaussian(250, seed=1) * spread
    calibrated = calibration(evidence, labels=labels, per_class=100)
    fresh = torch.cat([gaussian(4_000, seed=3), 10 * gaussian(4_000, seed=4), gaussian(4_000, seed=5)])
    y = torch.tensor([0, 1, 2]).repeat_interleave(4_000)
    scores = score(calibrated, fresh, y)
    own = [sorted({round(v, 4) for v in scores.threshold[y == label].tolist()}) for label in range(3)]
    assert own[0][0] < own[2][0] < own[1][0]
    assert own[2] == [round(calibrated.sample_threshold, 4)]
    rates = [float((scores.score > scores.threshold)[y == label].float().mean()) for label in range(3)]
    assert rates[0] == pytest.approx(0.05, abs=0.05)
    assert rates[1] == pytest.approx(0.05, abs=0.05)
    common = calibration(evidence, labels=labels, per_class=121)
    pooled = score(common, fresh, y)
    held = float((pooled.score > pooled.threshold)[y == 1].float().mean())
    assert held > rates[1]
    mine = y == 0
    assert torch.equal((scores.p <= 0.05)[mine], (scores.score > scores.threshold)[mine])


def test_a_class_needs_at_least_what_the_rate_needs() -> None:
    """50 samples are no base for a rate of 1 %, whatever ``per_class`` says."""
    labels = torch.tensor([0] * 50 + [1] * 100)
    calibrated = calibration(gaussian(150, seed=1), rate=0.01, labels=labels, per_class=2)
    scores = score(calibrated, gaussian(2, seed=2), torch.tensor([0, 1]))
    assert float(scores.threshold[0]) == calibrated.sample_threshold
    assert float(scores.p.min()) >= 1 / 151


def test_labels_that_the_probe_set_does_not_know_use_the_common_threshold() -> None:
    labels = torch.zeros(150, dtype=torch.int64)
    calibrated = calibration(gaussian(150, seed=1), labels=labels, per_class=100)
    scores = score(calibrated, gaussian(1, seed=2), torch.tensor([9]))
    assert float(scores.threshold) == calibrated.sample_threshold


def test_a_shift_is_that_of_the_most_mobile_signal_in_its_spreads() -> None:
    evidence = gaussian(3_000, seed=1)
    calibrated = calibration(evidence)
    moved = Trusted(evidence.clone(), calibrated.trusted.labels, None)
    looked_at = range(500, 1_000)
    moved.evidence[:500] += 9  # of these nothing is asked
    assert calibrated.shift(moved, looked_at) == 0.0
    moved.evidence[looked_at, 1] += 0.2  # standard deviations
    assert calibrated.shift(moved, looked_at) == pytest.approx(0.2, rel=0.25)
    moved.evidence[looked_at, 1] -= 1.2
    assert calibrated.shift(moved, looked_at) == pytest.approx(1.0, rel=0.25)


def test_evidence_has_eased_by_how_much_lower_trusted_samples_score_than_they_did() -> None:
    """By as much as the mean normal score of a group grows, or falls, when all that is trusted moves as these did."""
    evidence = gaussian(3_000, seed=1)
    calibrated = calibration(evidence)
    moved = Trusted(evidence.clone(), calibrated.trusted.labels, None)
    rows = range(500, 1_000)
    moved.evidence[:500] -= 9  # of these nothing is asked
    assert not calibrated.eased(moved, rows).any()
    moved.evidence[rows, 0] += 0.2
    moved.evidence[rows, 1] -= 0.2
    eased = calibrated.eased(moved, rows)
    assert eased[:2].tolist() == pytest.approx([-0.2, 0.2], rel=0.1)
    all_moved = calibration(evidence + torch.tensor([0.2, -0.2, 0.0]))
    fresh, labels = gaussian(400, seed=2), torch.zeros(400, dtype=torch.int64)
    before, after = (score(known, fresh, labels).normal.mean(0) for known in (calibrated, all_moved))
    assert (after - before)[:2].tolist() == pytest.approx(eased[:2].tolist(), rel=0.15)


def vaccinated(evidence: Tensor, strains: dict[str, Tensor], *, labels: Tensor | None = None) -> Calibration:
    """The same, and an expert for each strain of evidence."""
    plain = calibration(evidence, labels=labels)
    folds = folds_of(plain.trusted.labels)
    known = {
        name: Labelled(plain.standardise(crafted), folds[torch.arange(len(crafted)) % len(folds)])
        for name, crafted in strains.items()
    }
    vaccine = Vaccine.fit(Labelled(plain.standardise(evidence), folds), known)
    return Calibration(plain.trusted, rate=0.05, per_class=10**6, vaccine=vaccine)


STRAINS = {"left": gaussian(100, seed=21) + torch.tensor([2.0, 0, 0]), "low": gaussian(100, seed=22) - 2.0}


def test_only_judged_columns_count() -> None:
    evidence = gaussian(150, seed=1)
    trusted = Trusted(evidence, zeros(150), None)
    chosen = Calibration(trusted, rate=0.05, per_class=10**6, judged=[2, 0])
    fresh = gaussian(20, seed=2)
    changed = fresh.clone()
    changed[:, 1] = 1e6
    assert chosen.columns == 3
    assert chosen.standardise(fresh).shape == (20, 2)
    for field in ("score", "p", "normal", "ratios"):
        found = [getattr(score(chosen, x, zeros(20)), field) for x in (fresh, changed)]
        assert torch.equal(*found), field
    alone = Trusted(evidence[:, [2, 0]], zeros(150), None)
    same = score(Calibration(alone, rate=0.05, per_class=10**6), fresh[:, [2, 0]], zeros(20))
    assert torch.equal(same.score, score(chosen, fresh, zeros(20)).score)


def test_the_residual_is_the_distance_from_the_class_mean_in_spreads_and_can_be_restored() -> None:
    labels = torch.arange(300) % 3
    calibrated = calibration(gaussian(300, seed=1) + 3.0 * labels[:, None], labels=labels)
    trusted = calibrated.standardise(calibrated.trusted.evidence)
    residual = calibrated.residual(trusted, labels)
    for label in range(3):
        torch.testing.assert_close(residual[labels == label].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(residual.square().mean(0), torch.ones(3), atol=1e-5, rtol=0)
    fresh, y = calibrated.standardise(gaussian(9, seed=2)), torch.arange(9) % 4  # class 3: never seen
    torch.testing.assert_close(calibrated.restored(calibrated.residual(fresh, y), y), fresh)
    unseen = y == 3
    spread = trusted - torch.stack([trusted[labels == label].mean(0) for label in range(3)])[labels]
    torch.testing.assert_close(
        calibrated.residual(fresh, y)[unseen], fresh[unseen] / spread.square().mean(0).sqrt(), rtol=1e-4, atol=1e-5
    )


def test_what_more_samples_do_not_take_away_by_hand() -> None:
    labels = torch.tensor([0] * 40 + [1] * 10)
    calibrated = calibration(gaussian(50, seed=1), labels=labels)
    assert calibrated.shared_variance({0: 7}) == pytest.approx(1 / 40)
    assert calibrated.shared_variance({0: 3, 1: 1}) == pytest.approx(0.75**2 / 40 + 0.25**2 / 10)
    assert calibrated.shared_variance({5: 2}) == 1.0


def test_the_vaccines_score_is_the_mean_likelihood_ratio_of_its_experts() -> None:
    calibrated = vaccinated(gaussian(400, seed=1), STRAINS)
    assert calibrated.vaccine is not None
    assert calibrated.columns == 3 + 1 + 2
    fresh = gaussian(5, seed=2)
    logits = calibrated.vaccine.logits(calibrated.standardise(fresh))
    found = score(calibrated, fresh, zeros(5))
    torch.testing.assert_close(found.score, logits.exp().mean(1).log())
    assert found.normal.shape == (5, 6)
    assert found.ratios.shape == (5, 3)


def test_a_vaccine_catches_what_fisher_cannot_know_and_the_rate_holds() -> None:
    """Evidence that is unusually low in every column is what Fisher's one-sided test calls clean."""
    attack = gaussian(2_000, seed=31) - 2.0
    caught, plain, suspected = 0.0, 0.0, 0
    for seed in range(20):
        evidence = gaussian(200, seed=100 * seed)
        known, without = vaccinated(evidence, STRAINS), calibration(evidence)
        found, fisher = (score(calibrated, attack, zeros(2_000)) for calibrated in (known, without))
        caught += float((found.score > found.threshold).float().mean()) / 20
        plain += float((fisher.score > fisher.threshold).float().mean()) / 20
        clean = score(known, gaussian(500, seed=100 * seed + 50), zeros(500))
        suspected += int((clean.score > clean.threshold).sum())
    assert plain < 0.01
    assert caught > 0.8
    assert suspected / 10_000 <= 0.05 + 3.5 * (0.05 * 0.95 / 200 / 20 + 0.05 / 10_000) ** 0.5


def test_the_rate_holds_where_experts_have_learned_their_trusted_samples_by_heart() -> None:
    """Thirty columns that tell nothing of 60 samples: what was learned from scores lower than what comes."""
    suspected = 0
    for seed in range(30):
        evidence = torch.randn(160 + 500, 30, generator=torch.Generator().manual_seed(seed))
        known = vaccinated(evidence[:60], {"noise": evidence[60:160]})
        clean = score(known, evidence[160:], zeros(500))
        suspected += int((clean.score > clean.threshold).sum())
    assert suspected / 15_000 == pytest.approx(0.045, abs=0.015)


def test_likelihood_ratios_are_at_most_one_on_average_over_clean_samples_and_large_for_their_attack() -> None:
    calibrated = vaccinated(gaussian(200, seed=1), STRAINS)
    clean = score(calibrated, gaussian(20_000, seed=2), zeros(20_000)).ratios
    assert bool((clean.mean(0) < 1.2).all())
    left = score(calibrated, gaussian(500, seed=3) + torch.tensor([2.0, 0, 0]), zeros(500)).ratios
    low = score(calibrated, gaussian(500, seed=4) - 2.0, zeros(500)).ratios
    assert float((left[:, 0] > left[:, 1]).float().mean()) > 0.9
    assert float((low[:, 1] > low[:, 0]).float().mean()) > 0.9
    assert float(left[:, 0].mean()) > 4
    assert float(score(calibrated, torch.full((1, 3), 1e6), zeros(1)).ratios.max()) <= 200.1  # what 200 can tell


def test_the_unknown_attacks_ratio_is_calibrated_from_fishers_pvalue() -> None:
    """Without a vaccine it is the only one: 1 / (2 √p), whose mean over clean samples and probe sets is one."""
    means = []
    for seed in range(40):
        calibrated = calibration(gaussian(400, seed=3 * seed))
        found = score(calibrated, gaussian(1_000, seed=3 * seed + 1), zeros(1_000))
        torch.testing.assert_close(found.ratios[:, 0], 0.5 / found.p.sqrt())
        means.append(float(found.ratios.mean()))
    assert sum(means) / 40 == pytest.approx(0.97, abs=0.05)  # a little less: no p-value is below 1 / 401
