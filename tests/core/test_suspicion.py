"""An alarm holds the samples that carry it: hardly any clean ones, and all of a group only where most are hostile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from weir.core import mixture
from weir.core.calibration import Calibration, Scores, Trusted
from weir.core.config import GuardConfig
from weir.core.producers import Alarm, Producers
from weir.core.roster import Roster
from weir.core.suspicion import Jury, Suspicion
from weir.core.vaccine import Labelled, Vaccine, folds_of
from weir.types import Reason

NARROW = 0.1
CONFIG = GuardConfig(sample_rate=0.001, step_rate=1e-4, producer_rate=1e-4, narrow_rate=NARROW)
SHIFT = torch.tensor([2.5, 1.5, 0.0])  # weak enough that hardly a sample gives itself away


def draw(n: int, *, seed: int, hostile: Tensor | None = None) -> Tensor:
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return noise if hostile is None else noise + hostile[:, None] * SHIFT


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    trusted = Trusted(draw(2_000, seed=0), torch.zeros(2_000, dtype=torch.int64), None)
    plain = Calibration(trusted, rate=0.001, per_class=10**6)
    folds = folds_of(trusted.labels)
    strain = Labelled(plain.standardise(draw(400, seed=1, hostile=torch.ones(400))), folds[:400])
    vaccine = Vaccine.fit(Labelled(plain.standardise(trusted.evidence), folds), {"shift": strain})
    return Calibration(trusted, rate=0.001, per_class=10**6, vaccine=vaccine)


def score(calibration: Calibration, evidence: Tensor) -> Scores:
    return calibration.score(calibration.standardise(evidence), torch.zeros(len(evidence), dtype=torch.int64))


def suspect(
    scores: Scores,
    names: Sequence[str],
    alarms: Mapping[str, Alarm],
    calibration: Calibration,
    *,
    drift: bool = False,
) -> Suspicion:
    return Jury(CONFIG).suspect(scores, Roster(names, [0] * len(names)), alarms, calibration, drift=drift)


def alarm(scores: Scores, rows: Sequence[int], *, whole: bool) -> Alarm:
    """As the producer's records give it."""
    return Alarm(whole, mixture.update(mixture.prior(scores.ratios.shape[1]), scores.ratios[list(rows)]))


def held(reasons: Sequence[Reason], rows: Tensor, *why: Reason) -> float:
    """Share of the rows with one of these reasons."""
    chosen = [reasons[row] in why for row in rows.nonzero().flatten().tolist()]
    return sum(chosen) / len(chosen)


GROUP = (Reason.PRODUCER, Reason.STEP, Reason.SAMPLE)


def test_of_a_producer_that_is_30_percent_hostile_mostly_those_are_held(calibration: Calibration) -> None:
    hostile = torch.arange(400) % 10 < 3
    caught = clean = alone = 0.0
    for seed in range(5):
        scores = score(calibration, draw(400, seed=10 + seed, hostile=hostile))
        alarms = {"eve": alarm(scores, range(400), whole=False)}
        found = suspect(scores, ["eve"] * 400, alarms, calibration)
        assert found.producers == frozenset()  # he is not to blame as a whole
        assert found.alarms == (Reason.STEP, Reason.PRODUCER)
        caught += held(found.reasons, hostile, *GROUP) / 5
        clean += held(found.reasons, ~hostile, *GROUP) / 5
        alone += float((scores.score > scores.threshold)[hostile].float().mean()) / 5
    assert alone < 0.4
    assert caught > 0.75
    assert caught > alone + 0.35
    assert clean <= NARROW


@pytest.mark.parametrize("narrow", [0.02, 0.1])
def test_no_more_clean_samples_are_held_than_the_narrow_rate_whatever_is_believed(
    calibration: Calibration, narrow: float
) -> None:
    """Even when the group is believed to be hostile for the most part, and is clean."""
    scores = score(calibration, draw(5_000, seed=3))
    believed = torch.tensor([10.0, 90.0, 0.0], dtype=torch.float64)
    jury = Jury(GuardConfig(sample_rate=0.001, narrow_rate=narrow, step_rate=1e-9))
    names = ["ann"] * 5_000
    found = jury.suspect(scores, Roster(names, [0] * 5_000), {"ann": Alarm(False, believed)}, calibration, drift=False)
    share = held(found.reasons, torch.ones(5_000), Reason.PRODUCER)
    slack = 3.5 * (narrow / 5_000 + narrow / 2_000) ** 0.5
    assert share <= narrow + slack
    assert share > narrow / 2  # it is this rate that binds


def test_an_alarm_holds_what_is_less_likely_hostile_than_not_but_not_what_hardly_is(calibration: Calibration) -> None:
    """A held sample can be released, a learned one has harmed: one chance in four is enough, one in six is not."""
    hostile = torch.arange(400) % 10 < 3
    scores = score(calibration, draw(400, seed=10, hostile=hostile))
    found = suspect(scores, ["eve"] * 400, {"eve": alarm(scores, range(400), whole=False)}, calibration)
    chance = 1 - mixture.responsibilities(alarm(scores, range(400), whole=False).believed, scores.ratios)[:, 0]
    unusual = scores.p <= NARROW
    assert held(found.reasons, unusual & (chance > 0.25) & (chance < 0.45), Reason.PRODUCER) == 1.0
    assert held(found.reasons, (chance < 0.19) & (scores.score <= scores.threshold), *GROUP) == 0.0


def test_of_a_producer_that_is_hostile_throughout_all_are_held(calibration: Calibration) -> None:
    scores = score(calibration, draw(60, seed=4, hostile=torch.ones(60)))
    found = suspect(scores, ["eve"] * 60, {"eve": alarm(scores, range(60), whole=True)}, calibration)
    assert set(found.reasons) == {Reason.PRODUCER}
    assert found.producers == {"eve"}
    assert Reason.PRODUCER in found.alarms


@pytest.mark.parametrize("names", [["eve"] * 200, [f"p{row}" for row in range(200)]], ids=["producer", "step"])
def test_an_alarm_that_cannot_be_narrowed_holds_all(calibration: Calibration, names: Sequence[str]) -> None:
    """Every sample is shifted a little, so that few give themselves away: without these the rest stands out still."""
    scores = score(calibration, draw(200, seed=9) + 0.2 * SHIFT)
    alarms = {"eve": Alarm(False, torch.tensor([70.0, 30.0, 1.0], dtype=torch.float64))} if "eve" in names else {}
    why = Reason.PRODUCER if alarms else Reason.STEP
    found = suspect(scores, names, alarms, calibration)
    assert set(found.reasons) == {why}
    assert found.producers == frozenset()  # she may be honest, and someone else among her samples
    narrowed = suspect(scores, names, alarms, calibration, drift=True)
    assert 0 < held(narrowed.reasons, torch.ones(200), why) < 0.6


@pytest.mark.parametrize("whole", [True, False])
def test_a_producers_alarm_condemns_nobody_else(calibration: Calibration, whole: bool) -> None:
    hostile = torch.arange(120) % 3 == 0
    names = ["eve" if h else "ann" for h in hostile.tolist()]
    scores = score(calibration, draw(120, seed=5, hostile=hostile))
    rows = hostile.nonzero().flatten().tolist()
    found = suspect(scores, names, {"eve": alarm(scores, rows, whole=whole)}, calibration)
    assert Reason.STEP in found.alarms  # all together they do stand out …
    assert {r for r, name in zip(found.reasons, names, strict=True) if name == "ann"} <= {Reason.CLEAN, Reason.SAMPLE}
    assert held(found.reasons, ~hostile, *GROUP) <= 0.03  # … but it is eve who is to blame
    assert held(found.reasons, hostile, Reason.PRODUCER) == pytest.approx(1.0, abs=0.0 if whole else 0.2)


def test_what_no_alarm_rests_on_is_left_alone_however_likely(calibration: Calibration) -> None:
    """Ann sends a few samples that look hostile, too few for an alarm without those of eve, which are explained."""
    hostile = torch.arange(120) < 40
    names = ["eve"] * 40 + ["ann"] * 80
    for seed in range(10):
        evidence = draw(120, seed=50 + seed, hostile=hostile)
        evidence[40:45] += SHIFT
        scores = score(calibration, evidence)
        found = suspect(scores, names, {"eve": alarm(scores, range(40), whole=True)}, calibration)
        assert found.step_score > 5
        assert Reason.STEP in found.alarms
        assert Reason.STEP not in found.reasons


def test_the_step_and_what_is_left_of_it_are_foreseen_as_they_would_be_held_against_the_bound(
    calibration: Calibration,
) -> None:
    hostile = torch.arange(80) < 40
    scores, names = score(calibration, draw(80, seed=3, hostile=hostile)), ["eve"] * 40 + ["ann"] * 40
    slack = torch.stack([torch.zeros(calibration.columns), torch.full((calibration.columns,), 0.1)])

    def foreseen(*alarming: str) -> Tensor:
        return Jury(CONFIG).foresee(scores, Roster(names, [0] * 80), alarming, calibration, slack=slack)

    whole, left = foreseen("eve")[0].tolist()
    assert whole == suspect(scores, names, {}, calibration).step_score
    assert left == float(calibration.group_statistics(scores.normal[40:].mean(0)[None], [Counter({0: 40})]))
    more = 0.1 / (1 / 40 + calibration.shared_variance({0: 40})) ** 0.5
    assert float(foreseen("eve")[1, 1]) == pytest.approx(left + more)
    assert foreseen()[0].tolist() == [whole, whole]
    assert foreseen("eve", "ann")[:, 1].tolist() == [0.0, 0.0]  # nothing is left


def test_an_alarm_of_others_clears_no_one(calibration: Calibration) -> None:
    """What is left of the step without the one who alarms is looked at by itself."""
    hostile = torch.ones(100)
    names = ["eve"] * 40 + [f"p{row}" for row in range(60)]
    scores = score(calibration, draw(100, seed=6, hostile=hostile))
    found = suspect(scores, names, {"eve": alarm(scores, range(40), whole=True)}, calibration)
    assert Counter(found.reasons) == {Reason.PRODUCER: 40, Reason.STEP: 60}
    assert found.producers == {"eve"}


def test_a_step_alarm_narrows_too(calibration: Calibration) -> None:
    """Many producers of one sample each, 30 % of them hostile: no producer explains it."""
    hostile = torch.arange(300) % 10 < 3
    names = [f"p{row}" for row in range(300)]
    caught = clean = 0.0
    for seed in range(5):
        scores = score(calibration, draw(300, seed=20 + seed, hostile=hostile))
        found = suspect(scores, names, {}, calibration)
        assert found.alarms == (Reason.STEP,)
        caught += held(found.reasons, hostile, Reason.STEP, Reason.SAMPLE) / 5
        clean += held(found.reasons, ~hostile, Reason.STEP, Reason.SAMPLE) / 5
    assert caught > 0.7
    slack = 3.5 * (NARROW / (5 * 210) + NARROW / 2_000) ** 0.5  # as above
    assert clean <= NARROW + slack


def test_a_step_that_is_hostile_for_the_most_part_is_held_whole(calibration: Calibration) -> None:
    hostile = torch.arange(200) % 10 < 8
    scores = score(calibration, draw(200, seed=7, hostile=hostile))
    found = suspect(scores, [f"p{row}" for row in range(200)], {}, calibration)
    assert set(found.reasons) == {Reason.STEP}


def test_a_clean_step_is_left_alone_and_a_suspect_sample_suspect_by_itself(calibration: Calibration) -> None:
    evidence = draw(100, seed=8)
    evidence[7] += 4 * SHIFT
    scores = score(calibration, evidence)
    found = suspect(scores, ["ann"] * 100, {}, calibration)
    assert found.alarms == ()
    assert found.reasons[7] is Reason.SAMPLE
    assert found.reasons.count(Reason.CLEAN) >= 98


def test_the_records_and_the_jury_together_hold_what_is_hostile(calibration: Calibration) -> None:
    """Step after step: eve mixes 30 % of an attack into her samples, mal sends nothing else, ann nothing of it."""
    producers = Producers(CONFIG)
    names = ["ann"] * 20 + ["eve"] * 20 + ["mal"] * 20
    hostile = torch.tensor([False] * 20 + [row % 10 < 3 for row in range(20)] + [True] * 20)
    counted: Counter[tuple[str, bool, bool]] = Counter()
    for step in range(30):
        scores = score(calibration, draw(60, seed=100 + step, hostile=hostile))
        alarms = producers.observe(scores, Roster(names, [0] * 60), calibration)
        found = suspect(scores, names, alarms, calibration)
        if step >= 10:
            parts = zip(names, hostile.tolist(), found.reasons, strict=True)
            counted.update((name, bad, reason is not Reason.CLEAN) for name, bad, reason in parts)

    def share(name: str, bad: bool) -> float:
        return counted[name, bad, True] / (counted[name, bad, True] + counted[name, bad, False])

    assert share("mal", True) == 1.0
    assert share("eve", True) > 0.75
    assert share("eve", False) <= NARROW + 0.03
    assert share("ann", False) <= 0.02
