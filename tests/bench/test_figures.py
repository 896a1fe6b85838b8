"""Figures that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from tests.bench.conftest import stream

from weir.bench.figures import (
    accuracy_after_attack,
    accuracy_before_trigger,
    attribution,
    auroc,
    bites,
    counts,
    detection,
    drift_steps,
    roc,
    threshold_shift,
    upper_bound,
)
from weir.bench.guards import GUARDS
from weir.bench.stream import HOSTILE, Phase
from weir.bench.trial import Bench, Moment, Trial
from weir.types import GuardMode, Reason, SampleVerdict, StepReport, Verdict


def moment(
    verdicts: str,
    poisoned: str,
    *,
    producer: str = "ann",
    accused: tuple[str, ...] = (),
    stale: bool = False,
    drift: bool = False,
) -> Moment:
    """One step: a letter a sample, its verdict (a, c or q) and whether it is poisoned (p), noisy (n) or neither."""
    kinds = {"a": Verdict.ACCEPT, "c": Verdict.CORRECT, "q": Verdict.QUARANTINE}
    given = tuple(SampleVerdict(kinds[letter], Reason.SAMPLE) for letter in verdicts)
    report = StepReport(
        step=0,
        updates=0,
        mode=GuardMode.WEIR,
        armed=True,
        verdicts=given,
        producers=(producer,) * len(given),
        updated=True,
        alarms=(Reason.PRODUCER,) if accused else (),
        alarmed_producers=accused,
        probe_stale=stale,
        drift=drift,
    )
    labels = torch.arange(len(given)) % 2
    kind = list(poisoned)
    return Moment(
        Phase.ATTACK, report, labels, torch.tensor([k == "p" for k in kind]), torch.tensor([k == "n" for k in kind])
    )


def trial(*moments: Moment, accuracy: tuple[float, ...] = (0.5,), phases: tuple[Phase, ...] = ()) -> Trial:
    return Trial(phases, accuracy, (0.0, 0.0), moments, (), 0.0)


def test_held_and_corrected_are_told_apart_and_noise_is_honest() -> None:
    found = detection(trial(moment("qcaa", "pp.p"), moment("qaca", "n...")), 2)
    assert found["held_poison_ratio"] == pytest.approx(1 / 3)
    assert found["corrected_poison_ratio"] == pytest.approx(1 / 3)
    assert found["touched_clean_ratio"] == pytest.approx(2 / 5)
    assert found["touched_noisy_ratio"] == 1
    assert found["touched_per_class"] == [pytest.approx(2 / 3), 0]


def test_a_figure_about_nobody_is_none() -> None:
    found = detection(trial(moment("qa", "..")), 3)
    assert found["held_poison_ratio"] is None
    assert found["touched_noisy_ratio"] is None
    assert found["touched_per_class"] == [1, 0, None]
    assert found["auroc"] is None


def test_alarms_are_counted_apart_on_clean_and_on_poisoned_steps() -> None:
    found = counts(trial(moment("a", ".", accused=("ann",)), moment("a", "p", accused=("ann",)), moment("a", ".")))
    assert (found["alarms"], found["batches"]) == (1, 2)
    assert (found["alarms_on_poison"], found["poisoned_batches"]) == (1, 1)


def test_the_hostile_producer_is_named_by_its_own_batches_and_others_are_blamed() -> None:
    found = attribution(
        trial(
            moment("a", "p", producer=HOSTILE),
            moment("a", ".", accused=("ann",)),
            moment("a", "p", producer=HOSTILE, accused=(HOSTILE,)),
        )
    )
    assert found == {"named_after": 2, "blamed_honest": 1, "honest_batches": 1}


def test_accuracies_are_read_before_the_trigger_and_as_a_median_after_the_attack() -> None:
    phases = (Phase.BEFORE, Phase.ATTACK, Phase.TRIGGER, *[Phase.AFTER] * 9)
    run = trial(accuracy=(0.5, 0.6, 0.7, 0.2, 0.3, 0.1, 0.4, 0.25, *[0.9] * 5), phases=phases)
    assert accuracy_before_trigger(run) == 0.7
    assert accuracy_after_attack(run) == 0.25
    assert accuracy_before_trigger(trial(phases=(Phase.AFTER,))) is None


def test_an_attack_bites_from_five_points_on() -> None:
    phases = (Phase.ATTACK,) * 5
    spared = trial(accuracy=(0.5, *[0.8] * 5), phases=phases)
    assert bites(trial(accuracy=(0.5, *[0.74] * 5), phases=phases), spared)
    assert not bites(trial(accuracy=(0.5, *[0.76] * 5), phases=phases), spared)


def test_auroc_counts_pairs_and_ties_half() -> None:
    scores, positive = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([False, True, False, True])
    assert auroc(scores, positive) == pytest.approx(3.5 / 4)
    assert auroc(scores, torch.zeros(4, dtype=torch.bool)) is None


@pytest.mark.parametrize(("events", "trials", "bound"), [(0, 300, 0.00994), (1, 20, 0.2161), (5, 5, 1.0)])
def test_the_upper_bound_is_clopper_and_pearsons(events: int, trials: int, bound: float) -> None:
    assert upper_bound(events, trials) == pytest.approx(bound, rel=1e-2)


def test_no_trials_bound_nothing() -> None:
    assert upper_bound(0, 0) is None


def test_the_threshold_did_not_move_where_nothing_happened(bench: Bench) -> None:
    run = bench.run(GUARDS["weir"], stream(bench, "ratchet"), absent=True)
    assert threshold_shift(run, run) == 0


def test_an_alarm_calls_a_batch_poison_only_where_it_touches_it() -> None:
    found = counts(
        trial(moment("aq", "..", accused=("ann",)), moment("aa", "..", accused=("ann",)), moment("aq", "..")),
    )
    assert (found["called_poison"], found["alarms"], found["touched_batches"], found["batches"]) == (1, 2, 2, 3)


def test_drift_is_counted_by_step() -> None:
    assert drift_steps(trial(moment("a", ".", stale=True), moment("a", "."), moment("a", ".", drift=True))) == 2


def test_the_roc_is_read_at_shares_of_honest_samples_and_never_flatters_ties() -> None:
    scores = torch.cat([torch.arange(100.0), torch.tensor([89.5, 99.5])])
    curve = roc(scores, torch.arange(102) >= 100)
    assert curve is not None
    at = dict(zip(curve["fpr"], curve["tpr"], strict=True))
    assert (at[0.0], at[0.08], at[0.1], at[1.0]) == (0.5, 0.5, 1.0, 1.0)
    tied = roc(torch.zeros(4), torch.tensor([True, False, False, False]))
    assert tied is not None
    assert tied["tpr"] == [0.0] * (len(tied["tpr"]) - 1) + [1.0]
    assert roc(torch.zeros(4), torch.zeros(4, dtype=torch.bool)) is None
