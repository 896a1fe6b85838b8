"""Streams: what is in them, what stays hidden, and that attacks stay within what they own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.bench.conftest import stream

from weir.bench.guards import GUARDS, Guard
from weir.bench.scenario import SCENARIOS, Setting
from weir.bench.stream import CROWD, HOSTILE, Phase, truth
from weir.bench.trial import Bench, corrupted
from weir.core import Engine
from weir.errors import InvalidSetting
from weir.redteam import Accumulative, Trigger
from weir.types import Step, StepReport

HONEST_SCENARIOS = {"clean", "skewed", "noisy_labels", "drift_gradual", "drift_sudden", "drift_crowd"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_stream_is_the_same_whenever_it_is_made(scenario: str, bench: Bench) -> None:
    first, second = stream(bench, scenario), stream(bench, scenario)
    assert len(first.turns) == len(second.turns)
    for one, other in zip(first.turns, second.turns, strict=True):
        assert torch.equal(one.batch.x, other.batch.x)
        assert torch.equal(one.batch.y, other.batch.y)
        assert list(one.producers) == list(other.producers)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_someone_means_harm_where_the_name_says_so(scenario: str, bench: Bench) -> None:
    made = stream(bench, scenario)
    assert made.hostile == (scenario not in HONEST_SCENARIOS)
    assert all(len(turn.producers) == len(turn.batch) for turn in made.turns)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_only_the_corrupted_share_is_moved_and_no_further_than_the_budget(scenario: str, bench: Bench) -> None:
    engine = bench.engine(GUARDS["none"])
    for turn in stream(bench, scenario).turns:
        x, y = corrupted(engine, turn)
        honest = ~truth(turn)
        assert torch.equal(x[honest], turn.batch.x[honest])
        assert torch.equal(y[honest], turn.batch.y[honest])
        if turn.corruption:
            assert float((x - turn.batch.x).abs().max()) <= turn.corruption.threat.epsilon + 1e-6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_attack_and_no_stream_holds_a_probe_or_a_test_sample(scenario: str, bench: Bench) -> None:
    kept = torch.cat([bench.given.probe.x, bench.given.test.x]).flatten(1)
    seen = torch.cat([turn.batch.x for turn in stream(bench, scenario).turns] + [bench.given.validation.x])
    assert float(torch.cdist(seen.flatten(1), kept).min()) > 0


def test_what_is_crafted_does_not_depend_on_the_probe_set(bench: Bench) -> None:
    other = replace(bench, given=replace(bench.given, probe=bench.given.test.select(range(100))))
    guard = Guard("lax", "", lambda config: replace(config, guard=replace(config.guard, sample_rate=0.1)))
    turn = next(turn for turn in stream(bench, "accumulative").turns if turn.phase is Phase.TRIGGER)
    crafted = [corrupted(one.engine(guard), turn)[0] for one in (bench, other)]
    assert torch.equal(*crafted)


@pytest.mark.parametrize("scenario", ["mixed", "noisy_labels"])
def test_the_truth_never_reaches_the_guard(scenario: str, bench: Bench) -> None:
    steps: list[Step] = []

    def spy(engine: Engine, step: Step, rate: float) -> StepReport:
        steps.append(step)
        return engine.process(step)

    watching = replace(GUARDS["weir"], process=spy)
    honest = stream(bench, scenario)
    turned = [
        replace(turn, corruption=replace(turn.corruption, hostile=not turn.corruption.hostile))
        if turn.corruption
        else turn
        for turn in honest.turns
    ]
    first, second = bench.run(watching, honest), bench.run(watching, replace(honest, turns=turned))
    assert first.accuracy == second.accuracy
    half = len(steps) // 2
    for one, other in zip(steps[:half], steps[half:], strict=True):
        assert torch.equal(one.x, other.x)
        assert list(one.refs) == list(other.refs)
        assert list(one.producers) == list(other.producers)
    assert any(moment.poisoned.any() for moment in (first if honest.hostile else second).moments)


def test_poisoned_samples_have_no_place_of_their_own_in_a_step(bench: Bench) -> None:
    moments = [m for m in bench.run(GUARDS["none"], stream(bench, "mixed")).moments if m.poisoned.any()]
    places = {tuple(moment.poisoned.nonzero().flatten().tolist()) for moment in moments}
    assert len(places) == len(moments)


def test_the_crowd_has_one_key_and_the_hostile_producer_its_own(bench: Bench) -> None:
    assert {name for turn in stream(bench, "mixed").turns for name in turn.producers} == {CROWD}
    for turn in stream(bench, "producer").turns:
        assert (turn.corruption is not None) == (HOSTILE in turn.producers)


def test_the_reference_is_the_same_stream_without_what_means_harm(bench: Bench) -> None:
    spared = bench.run(GUARDS["none"], stream(bench, "accumulative"), absent=True)
    assert len(spared.moments) == bench.terms.before + bench.terms.after
    assert len(spared.accuracy) == len(stream(bench, "accumulative").turns) + 1
    mixed = bench.run(GUARDS["none"], stream(bench, "mixed"), absent=True)
    assert not any(bool(moment.poisoned.any()) for moment in mixed.moments)
    assert {len(m.labels) for m in mixed.moments if m.phase is Phase.ATTACK} == {17}  # 30 % of 25 stay away: 8


def test_honest_mistakes_are_noise_and_no_poison(bench: Bench) -> None:
    for scenario, noise in (("noisy_labels", 1), ("drift_sudden", 25), ("clean", 0)):
        moments = bench.run(GUARDS["none"], stream(bench, scenario)).moments
        assert not any(bool(moment.poisoned.any()) for moment in moments)
        assert int(moments[-1].noisy.sum()) == noise


def test_under_cover_of_drift_everybody_sends_the_new_world_and_one_of_them_poison(bench: Bench) -> None:
    covered, plain = stream(bench, "drift_cover"), stream(bench, "producer")
    assert covered.drift is not None
    for moved, turn in zip(covered.turns, plain.turns, strict=True):
        assert moved.producers == turn.producers
        assert (moved.corruption is None) == (turn.corruption is None)
        if moved.phase is Phase.BEFORE:
            assert torch.equal(moved.batch.x, turn.batch.x)
    strikes = [turn.batch for made in (covered, plain) for turn in made.turns if turn.phase is Phase.TRIGGER]
    assert len(strikes) == 2
    seen, known = strikes
    assert torch.equal(seen.x, covered.drift.perturb(bench.engine(GUARDS["none"]).network.module, known.x, known.y))


def test_the_attacks_cost_is_a_term(bench: Bench) -> None:
    quick = replace(bench, terms=replace(bench.terms, attack_steps=2))
    for name in ("accumulative", "mixed", "producer"):
        moves = [turn.corruption.moves for turn in stream(quick, name).turns if turn.corruption]
        assert {one.steps for one in moves if isinstance(one, Accumulative | Trigger)} == {2}


def test_epsilon_bounds_what_is_crafted_and_no_patch_or_label(bench: Bench) -> None:
    tight = replace(bench, terms=replace(bench.terms, epsilon=0.0625))
    found = {
        name: {turn.corruption.threat.epsilon for turn in stream(tight, name).turns if turn.corruption}
        for name in ("accumulative", "ratchet", "backdoor", "label_flip")
    }
    assert found == {"accumulative": {0.0625}, "ratchet": {0.0625}, "backdoor": {1.0}, "label_flip": {1.0}}


def test_who_knows_the_guard_pays_the_penalty_of_the_terms(bench: Bench) -> None:
    dear = replace(bench, terms=replace(bench.terms, penalty=0.5))
    attacks = {repr(turn.corruption.moves) for turn in stream(dear, "adaptive").turns if turn.corruption}
    assert len(attacks) == 2
    assert all("penalty=0.5" in attack for attack in attacks)


def test_who_knows_the_guard_must_be_told_its_anchor(bench: Bench) -> None:
    with pytest.raises(InvalidSetting, match="anchor"):
        SCENARIOS["adaptive"](Setting.of(bench.terms, bench.given, bench.seed))
