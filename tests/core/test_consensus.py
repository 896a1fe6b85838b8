"""What most producers show at once is taken out of the evidence; what one or a few show is not."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from weir.core import witnesses as module
from weir.core.calibration import Calibration, Scores, Trusted
from weir.core.consensus import FEWEST_WITNESSES, Common, Consensus
from weir.core.roster import Roster
from weir.core.witnesses import ACTIVE, ESTABLISHED
from weir.types import State

RATE = 0.001
NAMES = ["ann", "bob", "cid", "dan", "eve"]
EACH = 10  # samples of each producer in a step


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    evidence = torch.randn(2_000, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2_000, dtype=torch.int64)
    return Calibration(Trusted(evidence, labels, None), rate=0.05, per_class=10**6)


def rows(shifts: Sequence[float], *, seed: int) -> Tensor:
    """Residuals of ten samples of each producer, its first column shifted; the producers one after the other."""
    residual = torch.randn(len(shifts) * EACH, 3, generator=torch.Generator().manual_seed(seed))
    residual[:, 0] += torch.tensor(shifts).repeat_interleave(EACH)
    return residual


def owners(names: Sequence[str]) -> list[str]:
    return [name for name in names for _ in range(EACH)]


def explain(
    consensus: Consensus, residual: Tensor, names: Sequence[str], step: int, calibration: Calibration
) -> Common:
    return consensus.explain(residual, Roster(owners(names), [0] * len(residual)), step, calibration)


def run(
    calibration: Calibration, shifts: Sequence[float], *, steps: int = 12, names: Sequence[str] = NAMES
) -> tuple[Tensor, Tensor, list[bool]]:
    """Residuals (steps, producers, samples, k) before and after, and which steps were called drift."""
    consensus = Consensus(rate=RATE, most=100)
    before, after, drift = [], [], []
    for step in range(steps):
        residual = rows(shifts, seed=step)
        common = explain(consensus, residual, names[: len(shifts)], step, calibration)
        before.append(residual)
        after.append(common.residual)
        drift.append(common.drift)
    shape = (steps, len(shifts), EACH, 3)
    return torch.stack(before).view(shape), torch.stack(after).view(shape), drift


@pytest.mark.parametrize("producers", [4, 5])
def test_a_shift_that_all_producers_show_is_drift_and_is_gone_from_the_residuals(
    calibration: Calibration, producers: int
) -> None:
    before, after, drift = run(calibration, [2.0] * producers)
    assert drift == [False] * 2 + [True] * 10  # 25 samples of each are wanted: the third step
    assert torch.equal(after[:2], before[:2])
    assert float(before[2:, :, :, 0].mean()) == pytest.approx(2.0, abs=0.1)
    assert float(after[2:, :, :, 0].mean()) == pytest.approx(0.0, abs=0.15)
    assert bool((after[4:, :, :, 0].mean((0, 2)).abs() < 0.35).all())  # nor is it left with any one of them
    assert torch.equal(after[..., 1:], before[..., 1:])  # what has not changed is not touched


def test_residuals_keep_their_type_and_the_given_ones_their_values(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=100)
    for step in range(4):
        residual = rows([2.0] * 5, seed=step)
        kept = residual.clone()
        common = explain(consensus, residual, NAMES, step, calibration)
        assert torch.equal(residual, kept)
        assert common.residual.dtype == residual.dtype
    assert common.drift


@pytest.mark.parametrize("hostile", [1, 2])
def test_a_minority_that_shifts_is_no_drift_and_keeps_its_evidence(calibration: Calibration, hostile: int) -> None:
    before, after, drift = run(calibration, [0.0] * (5 - hostile) + [4.0] * hostile)
    assert not any(drift)
    assert torch.equal(after, before)


def test_a_minority_is_not_excused_by_others_drift_beyond_what_they_share(calibration: Calibration) -> None:
    _, after, drift = run(calibration, [1.0, 1.0, 1.0, 1.0, 5.0])
    assert all(drift[2:])
    assert float(after[4:, 4, :, 0].mean()) == pytest.approx(4.0, abs=0.4)
    assert float(after[4:, :4, :, 0].mean()) == pytest.approx(0.0, abs=0.3)


def test_nobody_is_his_own_witness(calibration: Calibration) -> None:
    """Three of five are hostile alike: for each of them only two of the four others are."""
    before, after, _ = run(calibration, [0.0, 0.0, 4.0, 4.0, 4.0])
    assert torch.equal(after[:, 2:], before[:, 2:])


@pytest.mark.parametrize("producers", [1, 2, 3])
def test_fewer_than_four_producers_are_never_drift(calibration: Calibration, producers: int) -> None:
    before, after, drift = run(calibration, [6.0] * producers, steps=20)
    assert not any(drift)
    assert torch.equal(after, before)


def test_nobody_is_excused_further_than_he_moved_himself(calibration: Calibration) -> None:
    """Four change by three, the fifth by nothing or by half: from his evidence no more is taken than he shows."""
    still = run(calibration, [3.0, 3.0, 3.0, 3.0, -0.5])
    assert torch.equal(still[1][:, 4], still[0][:, 4])
    _, after, _ = run(calibration, [3.0, 3.0, 3.0, 3.0, 1.5])
    assert float(after[4:, 4, :, 0].mean()) == pytest.approx(0.0, abs=0.2)  # not 1.5 − 3
    assert float(after[4:, :4, :, 0].mean()) == pytest.approx(0.0, abs=0.2)


def test_a_world_that_became_easier_is_no_drift(calibration: Calibration) -> None:
    before, after, drift = run(calibration, [-3.0] * 5)
    assert not any(drift)
    assert torch.equal(after, before)


def test_what_spreads_out_with_drift_is_taken_back_to_one(calibration: Calibration) -> None:
    """The drifted column has thrice the spread; after it that is one again, and a clean spread is not widened."""
    consensus = Consensus(rate=RATE, most=100)
    for step in range(10):
        residual = rows([0.0] * 5, seed=step)
        residual[:, 0] = 3 * residual[:, 0] + 4
        residual[:, 1] = 0.3 * residual[:, 1] + 4
        common = explain(consensus, residual, NAMES, step, calibration)
    assert float(common.residual[:, 0].std()) == pytest.approx(1.0, abs=0.3)
    assert float(common.residual[:, 1].std()) == pytest.approx(0.3, abs=0.1)


def test_clean_streams_are_called_drift_at_no_more_than_about_the_rate(calibration: Calibration) -> None:
    """60 streams of five producers, 20 steps each; steps of one stream hang together, streams do not."""
    rate, drifted, streams = 0.02, 0, 60
    for stream in range(streams):
        consensus = Consensus(rate=rate, most=100)
        for step in range(20):
            residual = rows([0.0] * 5, seed=1_000 * stream + step)
            drifted += explain(consensus, residual, NAMES, step, calibration).drift
    assert drifted / (20 * streams) <= rate


def test_a_restart_goes_on_alike(calibration: Calibration) -> None:
    """Late in a stream, and with one producer who is still there, so that the others' last steps count."""
    one, other = Consensus(rate=RATE, most=100), Consensus(rate=RATE, most=100)
    for step in range(300, 305):
        explain(one, rows([2.0] * 5, seed=step), NAMES, step, calibration)
    state = one.state()
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    other.load_state(State(kept, json.loads(json.dumps(dict(state.values)))))
    for step in range(305, 309):
        found = [explain(c, rows([2.0], seed=step), NAMES[:1], step, calibration) for c in (one, other)]
        assert found[0].drift
        assert found[1].drift
        assert torch.equal(found[0].residual, found[1].residual)
    assert one.state().values == other.state().values
    for name, tensor in one.state().tensors.items():
        assert torch.equal(tensor, other.state().tensors[name])


def test_an_empty_record_survives_a_restart_and_forgetting_starts_anew(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=100)
    consensus.load_state(Consensus(rate=RATE, most=100).state())
    for step in range(5):
        common = explain(consensus, rows([2.0] * 5, seed=step), NAMES, step, calibration)
    assert common.drift
    consensus.forget()
    assert consensus.state() == Consensus(rate=RATE, most=100).state()
    assert not explain(consensus, rows([2.0] * 5, seed=9), NAMES, 9, calibration).drift


def test_the_number_of_producers_is_bounded_and_the_longest_unseen_goes_first(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=4)
    for step, name in enumerate(["ann", "bob", "cid", "dan", "ann", "eve", "fay"]):
        explain(consensus, rows([0.0], seed=step), [name], step, calibration)
    state = consensus.state()
    assert [name for name, _, _ in state.values["producers"]] == ["dan", "ann", "eve", "fay"]
    assert len(state.tensors["sums"]) == 4
    for step in range(9, 12):  # a step may have more producers than that, and established ones
        common = explain(consensus, rows([2.0] * 9, seed=step), list("abcdefghi"), step, calibration)
    assert common.excused == tuple("abcdefghi")
    explain(consensus, rows([2.0], seed=12), ["a"], 12, calibration)
    assert len(consensus.state().tensors["sums"]) == 4


def test_only_the_most_recent_producers_are_asked(calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty old ones that drifted do not outvote the four that are there now."""
    assert 10 <= module.MOST_ASKED <= 1_000
    monkeypatch.setattr(module, "MOST_ASKED", 4)
    consensus = Consensus(rate=RATE, most=100)
    old = [f"p{number}" for number in range(20)]
    for step in range(3):
        explain(consensus, rows([3.0] * 20, seed=step), old, step, calibration)
    for step in range(3, 6):
        assert not explain(consensus, rows([3.0, 0, 0, 0], seed=step), NAMES[:4], step, calibration).drift


@pytest.mark.parametrize(("silent", "asked"), [(ACTIVE, True), (ACTIVE + 1, False)])
def test_a_silent_producer_has_no_say_after_so_many_steps(calibration: Calibration, silent: int, asked: bool) -> None:
    """Three drifted and fell silent; the fourth shows the same now, and has them for witnesses or has not."""
    consensus = Consensus(rate=RATE, most=100)
    for step in range(3):
        explain(consensus, rows([3.0] * 4, seed=step), NAMES[:4], step, calibration)
    common = explain(consensus, rows([3.0], seed=7), ["dan"], 2 + silent, calibration)
    assert common.drift == asked


def test_a_newcomer_has_no_say_until_he_has_sent_enough(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=100)
    needed = -(-int(ESTABLISHED) // EACH)
    for step in range(5):
        explain(consensus, rows([3.0] * 3, seed=step), NAMES[:3], step, calibration)
    seen = [
        explain(consensus, rows([3.0] * 4, seed=10 + step), NAMES[:4], 10 + step, calibration).drift
        for step in range(needed)
    ]
    assert seen == [False] * (needed - 1) + [True]


def test_what_is_over_is_forgotten(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=100)
    for step in range(10):
        explain(consensus, rows([2.0] * 5, seed=step), NAMES, step, calibration)
    calm = [explain(consensus, rows([0.0] * 5, seed=step), NAMES, step, calibration).drift for step in range(10, 30)]
    assert calm[0]
    assert not any(calm[-8:])


def test_who_is_excused_anew_is_told_once_and_again_only_after_a_long_calm(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=100)

    def told(shift: float, step: int) -> Common:
        common = explain(consensus, rows([shift] * 5, seed=step), NAMES, step, calibration)
        settle(consensus, [0.0] * 5, common.excused, step)
        return common

    shaken = [told(2.0, step) for step in range(5)]
    assert [common.newly for common in shaken] == [(), (), tuple(NAMES), (), ()]
    assert shaken[-1].excused == tuple(NAMES)
    for step in range(5, 5 + ACTIVE):
        told(0.0, step)
    assert [name for step in range(200, 204) for name in told(2.0, step).newly] == NAMES


def scores(shifts: Sequence[float], *, seed: int) -> Scores:
    """Ten scores of each producer: two normal scores that are shifted, and ratios of exp(shift) on average."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.tensor(shifts).repeat_interleave(EACH)[:, None]
    nothing = torch.zeros(len(shift))
    return Scores(
        score=nothing,
        p=nothing + 0.5,
        threshold=nothing + 1,
        normal=shift + torch.randn(len(shift), 2, generator=generator),
        ratios=shift.exp() * torch.rand(len(shift), 2, generator=generator) * 2,
    )


def settle(
    consensus: Consensus, shifts: Sequence[float], excused: Sequence[str], step: int, names: Sequence[str] = NAMES
) -> tuple[Scores, Scores]:
    """Scores of one step before and after."""
    before = scores(shifts, seed=step)
    roster = Roster(owners(names[: len(shifts)]), [0] * len(before.score))
    return before, consensus.settle(before, excused, roster, step)


def settled(shifts: Sequence[float], *, excused: Sequence[str] = NAMES, steps: int = 12) -> tuple[Tensor, Tensor]:
    """Mean normal scores and ratios (producers, 2) after settling, of all steps but the first five."""
    consensus = Consensus(rate=RATE, most=100)
    found = [settle(consensus, shifts, excused, step)[1] for step in range(steps)][5:]
    shape = (len(found), len(shifts), EACH, 2)
    normal, ratios = (torch.stack([getattr(one, what) for one in found]).view(shape) for what in ("normal", "ratios"))
    return normal.mean((0, 2)), ratios.mean((0, 2))


def test_what_the_scores_have_in_common_in_a_new_world_is_taken_out_of_them() -> None:
    normal, ratios = settled([1.0] * 5)
    assert bool((normal.abs() < 0.35).all())
    assert bool((ratios < 1.4).all())


def test_who_stands_out_in_a_new_world_too_keeps_what_the_others_do_not_show() -> None:
    normal, ratios = settled([1.0, 1.0, 1.0, 1.0, 4.0])
    assert float(normal[-1].mean()) == pytest.approx(3.0, abs=0.3)
    assert float(ratios[-1].mean()) == pytest.approx(torch.tensor(3.0).exp(), rel=0.25)
    assert bool((normal[:-1].abs() < 0.35).all())


def test_nobody_is_settled_beyond_himself_nor_upwards() -> None:
    normal, ratios = settled([1.0, 1.0, 1.0, 1.0, -1.0])
    assert float(normal[-1].mean()) == pytest.approx(-1.0, abs=0.3)
    assert bool((ratios[-1] < 1).all())
    normal, ratios = settled([-1.0] * 5)
    assert bool((normal < -0.7).all())


def test_one_witness_is_not_enough_and_who_is_not_excused_is_none() -> None:
    normal, _ = settled([1.0] * 5, excused=NAMES[:FEWEST_WITNESSES])
    assert bool((normal > 0.65).all())
    normal, _ = settled([1.0] * 5, excused=NAMES[: FEWEST_WITNESSES + 1])
    assert bool((normal[: FEWEST_WITNESSES + 1] < 0.5).all())
    assert bool((normal[FEWEST_WITNESSES + 1 :] > 0.65).all())


def test_a_restart_goes_on_settling_alike() -> None:
    one, other = Consensus(rate=RATE, most=100), Consensus(rate=RATE, most=100)
    for step in range(5):
        settle(one, [1.0] * 5, NAMES, step)
    state = one.state()
    other.load_state(State(dict(state.tensors), json.loads(json.dumps(dict(state.values)))))
    before, after = settle(one, [1.0] * 5, NAMES, 5)
    assert torch.equal(settle(other, [1.0] * 5, NAMES, 5)[1].normal, after.normal)
    assert not torch.equal(before.normal, after.normal)
    older = State(
        {name: tensor for name, tensor in state.tensors.items() if "/" not in name},
        {name: value for name, value in state.values.items() if name != "scores"},
    )
    other.load_state(older)  # as earlier versions wrote it
    before, after = settle(other, [1.0] * 2, NAMES[:2], 6)
    assert torch.equal(before.normal, after.normal)


def test_scores_are_forgotten_alone_when_their_columns_change(calibration: Calibration) -> None:
    consensus = Consensus(rate=RATE, most=100)
    for step in range(5):
        common = explain(consensus, rows([2.0] * 5, seed=step), NAMES, step, calibration)
        settle(consensus, [1.0] * 5, common.excused, step)
    consensus.forget_scores()
    common = explain(consensus, rows([2.0], seed=5), NAMES[:1], 5, calibration)
    assert common.drift
    before, after = settle(consensus, [1.0], common.excused, 5)
    assert torch.equal(before.normal, after.normal)


def test_a_step_that_is_looked_at_again_counts_once(calibration: Calibration) -> None:
    once, twice = (Consensus(rate=RATE, most=100) for _ in range(2))
    for step in range(5):
        known = twice.recollection(owners(NAMES))
        for consensus, residual in ((twice, rows([9.0] * 5, seed=99)), (once, None), (twice, None)):
            again = rows([2.0] * 5, seed=step) if residual is None else residual
            common = explain(consensus, again, NAMES, step, calibration)
            settle(consensus, [1.0] * 5, common.excused, step)
            if residual is not None:
                consensus.recollect(known)
    one, other = once.state(), twice.state()
    assert one.values == other.values
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
