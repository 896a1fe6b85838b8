"""Evidence per producer: windows, rates, bounds and records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from weir.core import mixture
from weir.core import producers as module
from weir.core.calibration import Calibration, Scores, Trusted, group_threshold
from weir.core.config import GuardConfig
from weir.core.producers import ALLOWANCE, CHUNKS, Alarm, Producers
from weir.core.roster import Roster
from weir.types import ProducerReport, Reason, SampleVerdict, Standing, State, Verdict

TRUSTED = 200


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    evidence = torch.randn(TRUSTED, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(TRUSTED, dtype=torch.int64)
    return Calibration(Trusted(evidence, labels, None), rate=0.05, per_class=10**6)


def scores(n: int, *, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + shift


def of(normal: Tensor, ratios: Tensor | None = None) -> Scores:
    """Normal scores (n, 4), and the likelihood ratios of an attack that shifts the first column by one."""
    nothing = torch.zeros(len(normal))
    if ratios is None:
        ratios = (normal[:, :1] - 0.5).exp()
    return Scores(nothing, nothing + 0.5, nothing + 1, normal, ratios)


def observe(producers: Producers, normal: Tensor, names: list[str], calibration: Calibration) -> Mapping[str, Alarm]:
    """One step in which every sample is of class 0."""
    return producers.observe(of(normal), Roster(names, [0] * len(names)), calibration)


def standing(producers: Producers) -> dict[str, Standing]:
    return {report.producer: report.standing for report in producers.report()}


def record(producers: Producers, name: str = "ann") -> ProducerReport:
    return next(report for report in producers.report() if report.producer == name)


def assert_same(one: Producers, other: Producers) -> None:
    """All that is known of anyone, to the last bit."""
    mine, theirs = one.state(), other.state()
    assert mine.values == theirs.values
    assert torch.equal(mine.tensors["sums"], theirs.tensors["sums"])


def test_the_score_is_the_statistic_of_the_window_by_hand(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=10))
    steps = [scores(5, seed=seed) for seed in range(4)]
    for step in steps:
        observe(producers, step, ["ann"] * 5, calibration)
    (report,) = producers.report()
    newest = torch.cat(steps[-2:]).double()  # ten samples cover the window: older ones are forgotten
    assert report.score == pytest.approx(float(newest.mean(0).max()) / (1 / 10 + 1 / TRUSTED) ** 0.5, rel=1e-6)
    assert report.threshold == pytest.approx(NormalDist().inv_cdf(1 - 0.001 / 4))


def test_what_is_foreseen_is_what_would_be_observed_with_so_much_more_in_the_mean(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=10))
    observe(producers, scores(14, seed=1), ["ann", "bob"] * 7, calibration)
    before = producers.state()
    step, names = scores(6, seed=2), ["bob", "cid"] * 3
    slack = torch.stack([torch.zeros(4), torch.full((4,), 0.2)])
    plain, more = producers.foresee(of(step), Roster(names, [0] * 6), calibration, slack=slack).tolist()
    assert producers.state().values == before.values  # to look ahead changes nothing
    observe(producers, step, names, calibration)
    assert plain == [record(producers, name).score for name in ("bob", "cid")]
    sizes = (10, 3)
    assert more == pytest.approx([z + 0.2 / (1 / n + 1 / TRUSTED) ** 0.5 for z, n in zip(plain, sizes, strict=True)])


def test_what_is_recollected_is_as_if_nothing_had_been_observed_since(calibration: Calibration) -> None:
    producers, names = Producers(GuardConfig(producer_window=10)), ["ann", "bob"] * 7
    observe(producers, scores(14, seed=1), names, calibration)
    known, before = producers.recollection(["ann", "bob"]), producers.state()
    for seed in (2, 3):  # more than once
        observe(producers, scores(14, seed=seed) + 5.0, names, calibration)
        assert producers.standing(["ann"]) == {"ann": Standing.WATCHED}
        producers.recollect(known)
        after = producers.state()
        assert after.values == before.values
        assert torch.equal(after.tensors["sums"], before.tensors["sums"])


def test_the_window_covers_the_newest_samples_with_whole_steps(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=10))
    for n in (4, 4, 4, 7):
        observe(producers, torch.ones(n, 4) * n, ["ann"] * n, calibration)
    kept = producers.state().values["records"]["ann"]["chunks"]
    assert kept == [[(0, 4)], [(0, 7)]]


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
    assert set(alarmed) == {"eve"}
    assert standing(producers) == {"ann": Standing.GOOD, "eve": Standing.WATCHED}
    for step in range(8):
        alarmed = observe(producers, scores(10, seed=step, shift=-0.2), ["eve"] * 10, calibration)
    assert not alarmed
    assert set(standing(producers).values()) == {Standing.GOOD}


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
    assert len(producers.state().values["records"]["ann"]["chunks"]) == 20


def test_samples_sent_one_by_one_are_judged_as_together_and_take_no_more_room(calibration: Calibration) -> None:
    one_by_one, together = (Producers(GuardConfig(producer_window=160)) for _ in range(2))
    for seed in range(40):
        step = scores(10, seed=seed)
        observe(together, step, ["ann"] * 10, calibration)
        for row in step:
            observe(one_by_one, row[None], ["ann"], calibration)
    chunks = one_by_one.state().values["records"]["ann"]["chunks"]
    assert chunks == [[(0, 10)]] * CHUNKS
    assert record(one_by_one).score == pytest.approx(record(together).score)


def test_many_producers_in_one_step_are_judged_as_each_in_a_step_of_its_own(calibration: Calibration) -> None:
    mixed, alone = Producers(GuardConfig(producer_window=32)), Producers(GuardConfig(producer_window=32))
    for seed in range(12):
        names = [f"p{(row * row + seed) % 23}" for row in range(90)]
        hostile = torch.tensor([name in ("p1", "p4") for name in names])
        step = scores(90, seed=seed) + 2.0 * hostile[:, None]
        seen = observe(mixed, step, names, calibration)
        for name in dict.fromkeys(names):
            mine = [row for row, sender in enumerate(names) if sender == name]
            observe(alone, step[mine], [name] * len(mine), calibration)
    assert {"p1", "p4"} <= set(seen)
    assert_same(mixed, alone)


@pytest.mark.parametrize("window", [10, 160])  # one of whole steps, and one of chunks that grow
def test_a_restart_goes_on_alike(calibration: Calibration, window: int) -> None:
    one, other = (Producers(GuardConfig(producer_window=window)) for _ in range(2))
    for seed in range(11):
        shift = torch.tensor([0.5, 0.5, 6.0] * 2)[:, None]
        observe(one, scores(6, seed=seed) + shift, ["bob", "ann", "eve"] * 2, calibration)
        one.count(["bob"], [SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE)])
    kept = one.state()
    other.load_state(State(kept.tensors, json.loads(json.dumps(dict(kept.values)))))
    assert other.report() == one.report()
    assert standing(other)["eve"] is Standing.SUSPENDED
    for p in (one, other):
        for seed in range(100):
            observe(p, scores(4, seed=seed), ["ann", "bob", "new", "bob"], calibration)
    alarms = [observe(p, scores(4, seed=9), ["ann", "bob", "new", "eve"], calibration) for p in (one, other)]
    assert other.report() == one.report()
    assert_same(one, other)
    assert set(alarms[0]) == set(alarms[1]) >= {"eve"}
    assert torch.equal(alarms[0]["eve"].believed, alarms[1]["eve"].believed)


def test_evidence_in_a_state_of_an_earlier_version_is_kept(calibration: Calibration) -> None:
    """It had the sums beside the classes."""
    one, other = Producers(GuardConfig()), Producers(GuardConfig())
    for seed in range(3):
        observe(one, scores(40, seed=seed), ["ann", "bob"] * 20, calibration)
    kept = one.state()
    sums = iter(kept.tensors["sums"].tolist())
    older = json.loads(json.dumps(dict(kept.values)))
    for record in older["records"].values():
        record["chunks"] = [[classes, next(sums)] for classes in record["chunks"]]
    other.load_state(State({}, older))
    assert_same(one, other)


def forgiven() -> float:
    """What a clean sample of one class may rise without being held against its producer."""
    return ALLOWANCE + group_threshold(0.001, 4) * math.sqrt(1 / TRUSTED)


def test_the_sequential_score_is_a_cusum_of_every_column_by_hand(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=2))
    held = [0.0] * 4
    limit = math.log(4 / 0.001) / (2 * ALLOWANCE)
    for seed in range(30):
        step = scores(3, seed=seed, shift=0.0 if seed < 10 else 1.2)
        observe(producers, step, ["ann"] * 3, calibration)
        for column in range(4):
            moved = held[column] + float(step[:, column].sum()) - 3 * forgiven()
            held[column] = min(max(0.0, moved), 2 * limit)
        assert record(producers).sequential_score == pytest.approx(max(held), rel=1e-5, abs=1e-5)
    assert record(producers).sequential_threshold == pytest.approx(limit)
    assert max(held) > limit  # it has been in use up to there


def test_what_no_window_shows_adds_up(calibration: Calibration) -> None:
    """Samples in steps of three, each less suspect than a window must be: together they are enough."""
    producers = Producers(GuardConfig(producer_window=3, producer_rate=1e-4))
    rises = torch.tensor([1.5, -0.5, -0.5, -0.5]) + torch.zeros(3, 4)
    seen = []
    for _ in range(40):
        alarms = producers.observe(of(rises, torch.full((3, 1), 10.0)), Roster(["ann"] * 3, [0] * 3), calibration)
        found = record(producers)
        assert found.score is not None
        assert found.threshold is not None
        assert found.score < found.threshold
        assert set(alarms) == ({"ann"} if found.standing is Standing.SUSPENDED else set())
        seen.append(found.standing)
    assert set(seen) == {Standing.GOOD, Standing.SUSPENDED}
    assert seen == sorted(seen, key=[Standing.GOOD, Standing.SUSPENDED].index)


def test_a_suspended_producer_stays_so_until_its_evidence_is_gone_and_can_make_amends(calibration: Calibration) -> None:
    producers = Producers(GuardConfig(producer_window=10))
    for seed in range(300):
        observe(producers, scores(10, seed=seed, shift=2.0), ["eve"] * 10, calibration)
    clean = torch.full((10, 4), -0.1)
    most = 2 * math.log(4 / 0.001) / (2 * ALLOWANCE) / (0.1 + forgiven())  # samples: the score is capped
    needed = 0
    while record(producers, "eve").standing is Standing.SUSPENDED:
        alarms = observe(producers, clean, ["eve"] * 10, calibration)
        needed += 10
        assert needed <= most + 10
        assert bool(alarms) == (record(producers, "eve").sequential_score != 0.0)
        assert all(alarm.whole for alarm in alarms.values())
    assert needed >= most - 10  # long after its window of ten was clean
    assert not observe(producers, clean, ["eve"] * 10, calibration)


def test_nobody_is_suspended_whose_samples_look_like_no_attack(calibration: Calibration) -> None:
    """All of them are unusual, none like what is known of attacks: watched, and held one by one."""
    producers = Producers(GuardConfig())
    strange = scores(20, seed=1, shift=3.0)
    for _ in range(5):
        alarms = producers.observe(of(strange, torch.full((20, 1), 0.1)), Roster(["ann"] * 20, [0] * 20), calibration)
    found = record(producers)
    assert found.standing is Standing.WATCHED
    assert found.sequential_score is not None
    assert found.sequential_threshold is not None
    assert found.sequential_score > found.sequential_threshold
    assert found.suspect_share is not None
    assert found.suspect_share < 0.05
    assert not alarms["ann"].whole


@pytest.mark.parametrize(("hostile", "whole"), [(6, False), (14, True)])
def test_an_alarm_is_of_all_samples_where_most_look_like_an_attack(
    calibration: Calibration, hostile: int, whole: bool
) -> None:
    producers = Producers(GuardConfig())
    normal = scores(20, seed=3)
    normal[:hostile] += 4.0
    ratios = torch.where(torch.arange(20) < hostile, 50.0, 0.2)[:, None]
    for _ in range(5):
        alarms = producers.observe(of(normal, ratios), Roster(["ann"] * 20, [0] * 20), calibration)
    assert alarms["ann"].whole == whole
    assert mixture.suspect_share(alarms["ann"].believed) == pytest.approx(hostile / 20, abs=0.08)
    assert record(producers).suspect_share == pytest.approx(mixture.suspect_share(alarms["ann"].believed))
    assert record(producers).standing is (Standing.SUSPENDED if whole else Standing.WATCHED)


def test_clean_excursions_reach_the_sequential_threshold_at_no_more_than_the_rate() -> None:
    """Some thousand excursions from nought, against so many trusted samples that they forgive next to nothing."""
    evidence = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0))
    trusted = Trusted(evidence, torch.zeros(40_000, dtype=torch.int64), None)
    calibrated = Calibration(trusted, rate=0.05, per_class=10**6)
    rate, started, reached = 0.1, 0, 0
    producers = Producers(GuardConfig(producer_window=2, producer_rate=rate))
    before, counted = [0.0] * 4, [False] * 4
    limit = math.log(4 / rate) / (2 * ALLOWANCE)
    for row in scores(6_000, seed=5):
        observe(producers, row[None], ["ann"], calibrated)
        now = producers.state().values["records"]["ann"]["cumulative"]
        for column in range(4):
            if before[column] == 0.0 < now[column]:
                started, counted[column] = started + 1, False
            if now[column] >= limit and not counted[column]:
                reached, counted[column] = reached + 1, True
        before = now
    assert started > 2_000
    assert 0 < reached / started <= rate / 4


def test_forgetting_takes_the_evidence_and_leaves_the_counts(calibration: Calibration) -> None:
    producers = Producers(GuardConfig())
    for seed in range(5):
        observe(producers, scores(20, seed=seed, shift=3.0), ["eve"] * 20, calibration)
    producers.count(["eve"] * 2, [SampleVerdict(Verdict.QUARANTINE, Reason.PRODUCER)] * 2)
    assert record(producers, "eve").standing is Standing.SUSPENDED
    producers.forget()
    found = record(producers, "eve")
    assert (found.seen, found.held, found.standing) == (2, 2, Standing.GOOD)
    assert (found.score, found.sequential_score, found.suspect_share) == (None, None, None)
    assert not observe(producers, scores(20, seed=9), ["eve"] * 20, calibration)


def test_the_reports_are_those_of_the_records_whoever_was_seen_and_forgotten(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PRODUCERS", 5)
    producers = Producers(GuardConfig())
    for turn in range(40):
        names = [f"p{(turn * turn + row) % 8}" for row in range(3)]
        if turn == 20:
            producers.forget()
        if turn % 3:
            observe(producers, scores(3, seed=turn), names, calibration)
        producers.count(names, [SampleVerdict(Verdict.ACCEPT, Reason.CLEAN)] * 3)
        if turn % 2:
            restored = Producers(GuardConfig())
            restored.load_state(producers.state())
            assert producers.report() == restored.report()  # which makes all of them


def test_only_who_was_seen_since_is_reported_anew(calibration: Calibration) -> None:
    producers = Producers(GuardConfig())
    observe(producers, scores(3, seed=0), ["ann", "bob", "cid"], calibration)
    ann, bob, cid = producers.report()
    observe(producers, scores(1, seed=1), ["bob"], calibration)
    assert all(one is other for one, other in zip(producers.report(), (ann, cid), strict=False))
    assert record(producers, "bob") != bob


def test_clearing_one_takes_its_evidence_alone(calibration: Calibration) -> None:
    producers = Producers(GuardConfig())
    for seed in range(5):
        observe(producers, scores(40, seed=seed, shift=3.0), ["eve"] * 20 + ["fay"] * 20, calibration)
    producers.count(["eve"] * 2, [SampleVerdict(Verdict.QUARANTINE, Reason.PRODUCER)] * 2)
    producers.clear(["eve", "nobody yet"])
    found = record(producers, "eve")
    assert (found.seen, found.held, found.standing, found.sequential_score) == (2, 2, Standing.GOOD, None)
    assert standing(producers)["fay"] is Standing.SUSPENDED
    assert not observe(producers, scores(20, seed=9), ["eve"] * 20, calibration)
