"""Evidence per producer: windows, rates, bounds and records."""

from __future__ import annotations

import json
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from weir.core import producers as module
from weir.core.calibration import Calibration, Trusted
from weir.core.config import GuardConfig
from weir.core.producers import Producers
from weir.types import Reason, SampleVerdict, Standing, State, Verdict

TRUSTED = 200


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    evidence = torch.randn(2 * TRUSTED, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(TRUSTED, dtype=torch.int64)
    return Calibration(Trusted(evidence[:TRUSTED], evidence[TRUSTED:], labels, None), rate=0.05, per_class=10**6)


def scores(n: int, *, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + shift


def observe(producers: Producers, normal: Tensor, names: list[str], calibration: Calibration) -> frozenset[str]:
    """One step in which every sample is of class 0."""
    return producers.observe(normal, [0] * len(names), names, calibration)


def watched(producers: Producers) -> set[str]:
    return {report.producer for report in producers.report() if report.standing is Standing.WATCHED}


def test_the_score_is_the_statistic_of_the_window_by_hand(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=10))
    steps = [scores(5, seed=seed) for seed in range(4)]
    for step in steps:
        observe(producers, step, ["ann"] * 5, calibration)
    (report,) = producers.report()
    newest = torch.cat(steps[-2:]).double()  # ten samples cover the window: older ones are forgotten
    assert report.score == pytest.approx(float(newest.mean(0).max()) / (1 / 10 + 1 / TRUSTED) ** 0.5, rel=1e-6)
    assert report.threshold == pytest.approx(NormalDist().inv_cdf(1 - 0.001 / 4))


def test_the_window_covers_the_newest_samples_with_whole_steps(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=10))
    for n in (4, 4, 4, 7):
        observe(producers, torch.ones(n, 4) * n, ["ann"] * n, calibration)
    kept = producers.state().values["windows"]["ann"]["chunks"]
    assert [classes for classes, _ in kept] == [[(0, 4)], [(0, 7)]]


def test_rows_count_for_the_producer_that_sent_them(calibration: Calibration) -> None:
    mixed, alone = Producers(GuardConfig()), Producers(GuardConfig())
    rows = scores(30, seed=1)
    senders = ["ann", "bob", "cid"] * 10
    observe(mixed, rows, senders, calibration)
    for name in ("ann", "bob", "cid"):
        mine = [row for row, sender in enumerate(senders) if sender == name]
        observe(alone, rows[mine], [name] * len(mine), calibration)
    assert mixed.report() == alone.report()


def test_only_the_hostile_producer_alarms_and_stands_good_again_when_it_stops(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=40))
    for step in range(8):
        hostile = scores(10, seed=step, shift=1.0)
        alarmed = observe(
            producers, torch.cat([scores(10, seed=100 + step), hostile]), ["ann"] * 10 + ["eve"] * 10, calibration
        )
    assert alarmed == {"eve"}
    assert watched(producers) == {"eve"}
    for step in range(8):
        alarmed = observe(producers, scores(10, seed=step, shift=-0.2), ["eve"] * 10, calibration)
    assert not alarmed
    assert not watched(producers)


def test_clean_windows_alarm_at_no_more_than_the_rate(calibration: Calibration) -> None:
    """5,000 windows of 40 at 1 %; uniform p-values give exactly normal scores."""
    producers = Producers(GuardConfig(producer_window=40, producer_rate=0.01))
    rows = scores(5_000 * 40, seed=7)
    alarms = 0
    for trial, window in enumerate(rows.reshape(-1, 40, 4)):
        alarms += len(observe(producers, window, [f"p{trial}"] * 40, calibration))
    assert alarms / 5_000 <= 0.01 + 3 * (0.01 / 5_000) ** 0.5


def test_a_producer_of_few_samples_is_not_blamed_for_one_of_them(calibration: Calibration) -> None:
    worst = calibration.score(torch.full((1, 3), 100.0), torch.zeros(1, dtype=torch.int64)).normal
    assert not observe(Producers(GuardConfig()), worst, ["new"], calibration)


def test_the_record_counts_what_became_of_the_samples() -> None:
    producers = Producers(GuardConfig())
    verdicts = [SampleVerdict(v, Reason.SAMPLE) for v in (Verdict.ACCEPT, Verdict.CORRECT, Verdict.QUARANTINE)]
    producers.count(["ann", "ann", "bob"], verdicts)
    producers.count(["bob", "bob", "ann"], verdicts)
    found = {r.producer: (r.seen, r.held, r.corrected) for r in producers.report()}
    assert found == {"ann": (3, 1, 1), "bob": (3, 1, 1)}
    assert {(r.score, r.threshold, r.standing) for r in producers.report()} == {(None, None, Standing.GOOD)}


def test_the_number_of_producers_is_bounded_and_the_longest_unseen_goes_first(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.MOST_PRODUCERS >= 1_000
    monkeypatch.setattr(module, "MOST_PRODUCERS", 3)
    producers = Producers(GuardConfig())
    for name in ("ann", "bob", "cid", "ann", "dan"):
        observe(producers, scores(2, seed=1), [name] * 2, calibration)
    assert [report.producer for report in producers.report()] == ["cid", "ann", "dan"]
    producers.count(["eve"], [SampleVerdict(Verdict.ACCEPT, Reason.CLEAN)])
    assert [report.producer for report in producers.report()] == ["ann", "dan", "eve"]


def test_a_window_is_bounded_however_small_the_steps(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=20))
    for seed in range(300):
        observe(producers, scores(1, seed=seed), ["ann"], calibration)
    assert len(producers.state().values["windows"]["ann"]["chunks"]) == 20


def test_a_restart_goes_on_alike(calibration: Calibration) -> None:
    one, other = (Producers(GuardConfig(producer_window=10)) for _ in range(2))
    for seed in range(5):
        observe(one, scores(6, seed=seed, shift=0.5), ["bob", "ann", "eve"] * 2, calibration)
        one.count(["bob"], [SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE)])
    other.load_state(State({}, json.loads(json.dumps(one.state().values))))
    assert other.report() == one.report()
    for producers in (one, other):
        observe(producers, scores(3, seed=9), ["ann", "bob", "new"], calibration)
    assert other.report() == one.report()
