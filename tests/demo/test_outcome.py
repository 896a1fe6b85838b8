"""What passes, what fails, and what is said about it, with numbers that can be added up by hand."""

from __future__ import annotations

import json

import pytest
from tests.demo.conftest import Make

from weir.demo.outcome import Condition, Outcome, judge

BITES, HOLDS, LEARNS = range(3)


def outcome(make: Make, **given: object) -> Outcome:
    return judge(make(**given), judged=3)


def condition(make: Make, which: int, **given: object) -> Condition:
    return outcome(make, **given).conditions[which]


def test_a_good_run_passes_with_the_medians_after_the_trigger_and_at_the_end(make: Make) -> None:
    good = outcome(make)
    assert good.passed
    assert good.after_trigger == pytest.approx({"guarded": 86, "unguarded": 50, "reference": 86})
    assert good.end == pytest.approx({"guarded": 89, "unguarded": 80, "reference": 89})
    assert good.gain == pytest.approx({"guarded": 9, "unguarded": 0, "reference": 9})


@pytest.mark.parametrize(("unguarded", "passed"), [(0.81, True), (0.8125, False), (0.86, False), (0.9, False)])
def test_an_attack_that_does_not_bite_proves_nothing(make: Make, unguarded: float, passed: bool) -> None:
    seen = condition(make, BITES, unguarded=[0.1, unguarded, unguarded, unguarded, 0.9, 0.9])
    assert seen.passed is passed
    assert f"{86 - 100 * unguarded:.1f} points below" in seen.figures


@pytest.mark.parametrize(("guarded", "passed"), [(0.83, True), (0.8275, False), (0.60, False), (0.99, True)])
def test_a_guarded_model_may_lose_little_at_the_trigger(make: Make, guarded: float, passed: bool) -> None:
    seen = outcome(make, guarded=[guarded, guarded, guarded, 0.88, 0.89, 0.90])
    assert seen.conditions[HOLDS].passed is passed
    assert seen.passed is passed


def test_one_bad_evaluation_among_the_judged_does_not_decide(make: Make) -> None:
    assert condition(make, HOLDS, guarded=[0.10, 0.86, 0.87, 0.88, 0.89, 0.90]).passed


def test_what_comes_after_the_judged_evaluations_does_not_count_for_the_trigger(make: Make) -> None:
    assert not condition(make, BITES, unguarded=[0.86, 0.86, 0.86, 0.1, 0.1, 0.1]).passed


@pytest.mark.parametrize(("end", "passed"), [(0.855, True), (0.853, False), (0.80, False), (0.70, False)])
def test_a_guarded_model_must_keep_its_share_of_what_the_reference_learned(
    make: Make, end: float, passed: bool
) -> None:
    seen = condition(make, LEARNS, guarded=[0.85, 0.86, 0.87, end, end, end])
    assert seen.passed is passed


def test_a_stream_that_teaches_nothing_fails_and_says_so(make: Make) -> None:
    flat = [0.80] * 6
    seen = condition(make, LEARNS, guarded=flat, reference=flat)
    assert not seen.passed
    assert "the reference gained 0.0 points" in seen.figures


def test_the_outcome_and_the_record_are_ready_for_json(make: Make) -> None:
    record = make()
    assert json.loads(json.dumps(judge(record, judged=3).to_values()))["passed"] is True
    values = json.loads(json.dumps(record.to_values()))
    assert values["seed"] == 3
    assert [moment["accuracy"]["unguarded"] for moment in values["moments"]][-6:] == [0.4, 0.5, 0.6, 0.7, 0.8, 0.85]
    assert values["moments"][1]["phase"] == "accumulative phase"
    assert values["moments"][1]["guard"]["discrepancies"] == [0.4, 0.5]
