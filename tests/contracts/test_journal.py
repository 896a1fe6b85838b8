"""What every journal owes: what was decided comes back exactly, once, and can be waited for."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

from weir.stores.base import Cursor, Decision, Journal, JournalledSample
from weir.types import Reason, SampleRef, SampleVerdict, Verdict

if TYPE_CHECKING:
    from tests.contracts.conftest import Opened, Reopen

CLEAN = SampleVerdict(Verdict.ACCEPT, Reason.CLEAN, 0.1, 0.2, 0.3, 0.4)
HELD = SampleVerdict(Verdict.QUARANTINE, Reason.SAMPLE, 0.5, 0.2, 0.3, 0.001)
RELEASED = SampleVerdict(Verdict.ACCEPT, Reason.RELEASED)
UNARMED = SampleVerdict(Verdict.ACCEPT, Reason.UNARMED)


def refs(batch: str, *indices: int) -> tuple[SampleRef, ...]:
    return tuple(SampleRef(batch, index) for index in indices)


def step(
    number: int, samples: tuple[SampleRef, ...], verdict: SampleVerdict = CLEAN, command: str | None = None
) -> Decision:
    """A decision that starts at entry ``number``."""
    return Decision(
        step=number,
        start=Cursor(number, 0),
        end=Cursor(number + 1, 0),
        refs=samples,
        verdicts=(verdict,) * len(samples),
        updated=True,
        command=command,
    )


def test_a_decision_comes_back_as_it_was_recorded(journal: Journal) -> None:
    decision = Decision(
        step=7,
        start=Cursor(3, 5),
        end=Cursor(4, 2),
        refs=(*refs("b_1", 5, 6, 9), *refs("b_2", 0, 1), *refs("b_1", 2)),
        verdicts=(CLEAN, HELD, UNARMED, CLEAN, CLEAN, HELD),
        updated=True,
        vetoed=True,
    )
    journal.record(decision)
    assert journal.after(Cursor()) == [decision]


def test_a_command_comes_back_with_its_result(journal: Journal) -> None:
    result = {"restored": True, "steps": 3, "error": None, "nested": {"list": [1, 2.5, "x"]}}
    decision = Decision(step=7, start=Cursor(3, 0), end=Cursor(4, 0), command="c_1", result=result)
    journal.record(decision)
    assert journal.after(Cursor()) == [decision]
    assert journal.outcome("c_1") == result
    assert journal.outcome("c_2") is None


def test_every_float_comes_back_bit_for_bit(journal: Journal) -> None:
    numbers = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 0.0, 1 / 3, math.inf, -math.inf, math.nan]
    verdicts = tuple(SampleVerdict(Verdict.CORRECT, Reason.STEP, x, x, x, x) for x in numbers)
    sent = Decision(1, Cursor(), Cursor(1), refs("b_1", *range(len(numbers))), verdicts, result={"loss": math.nan})
    journal.record(sent)
    (kept,) = journal.after(Cursor())
    assert [repr(verdict) for verdict in kept.verdicts] == [repr(verdict) for verdict in verdicts]
    assert math.isnan(kept.result["loss"])


def test_recording_a_decision_twice_changes_nothing(journal: Journal) -> None:
    first = step(1, refs("b_1", 0, 1))
    journal.record(first)
    journal.record(first)
    journal.record(step(1, refs("b_1", 0, 1), HELD))
    assert journal.after(Cursor()) == [first]
    assert [line.verdict for line in journal.samples("b_1")] == [CLEAN, CLEAN]


def test_a_command_may_share_the_step_before_it(journal: Journal) -> None:
    learned = step(1, refs("b_1", 0))
    asked = Decision(step=1, start=Cursor(2, 0), end=Cursor(3, 0), command="c_1", result={"mode": "off"})
    journal.record(learned)
    journal.record(asked)
    assert journal.after(Cursor()) == [learned, asked]


def test_after_gives_what_starts_at_or_past_a_cursor_in_log_order(journal: Journal) -> None:
    cuts = [Cursor(0, 0), Cursor(0, 8), Cursor(1, 4), Cursor(3, 0), Cursor(3, 8)]
    decisions = [
        Decision(number, start, end, refs("b_1", number), (CLEAN,))
        for number, (start, end) in enumerate(pairwise(cuts))
    ]
    for decision in reversed(decisions):
        journal.record(decision)
    assert journal.after(Cursor(0, 0)) == decisions
    assert journal.after(Cursor(0, 8)) == decisions[1:]
    assert journal.after(Cursor(0, 9)) == decisions[2:]
    assert journal.after(Cursor(2, 0)) == decisions[3:]
    assert journal.after(Cursor(3, 1)) == []


def test_samples_of_a_batch_are_found_across_steps(journal: Journal) -> None:
    journal.record(step(1, (*refs("b_0", 9), *refs("b_1", 0, 1))))
    journal.record(step(2, (*refs("b_1", 2), *refs("b_2", 0)), HELD))
    assert journal.samples("b_1") == [
        JournalledSample(0, 1, CLEAN, False),
        JournalledSample(1, 1, CLEAN, False),
        JournalledSample(2, 2, HELD, False),
    ]
    assert journal.samples("b_9") == []


def test_the_later_decision_on_a_sample_counts(journal: Journal) -> None:
    journal.record(step(1, refs("b_1", 0, 1), HELD))
    journal.record(step(2, refs("b_1", 1), RELEASED, command="c_1"))
    assert journal.samples("b_1") == [JournalledSample(0, 1, HELD, False), JournalledSample(1, 2, RELEASED, False)]


def test_steps_outside_the_lineage_are_rolled_back(journal: Journal) -> None:
    for number in range(1, 8):
        journal.record(step(number, refs("b_1", number)))

    def rolled_back() -> list[int]:
        return [line.step for line in journal.samples("b_1") if line.rolled_back]

    assert rolled_back() == []
    journal.in_weights([(1, 1), (4, 4)], 5)
    journal.in_weights([(1, 1), (4, 4)], 5)
    assert rolled_back() == [2, 3, 5], "what comes after the last step that was ruled on is in the weights"
    journal.in_weights([(1, 3)], 6)
    assert rolled_back() == [4, 5, 6], "steps that came back into the weights were still rolled back"


def test_what_lies_before_the_floor_is_dropped(journal: Journal) -> None:
    decisions = [step(number, refs("b_1", number)) for number in range(1, 5)]
    inside = Decision(step=9, start=Cursor(5, 0), end=Cursor(5, 3), refs=refs("b_5", 0, 1, 2), verdicts=(CLEAN,) * 3)
    asked = Decision(step=2, start=Cursor(0, 0), end=Cursor(1, 0), command="c_1", result={"mode": "off"})
    for decision in [asked, *decisions, inside]:
        journal.record(decision)
    journal.trim(3)
    journal.trim(2)
    assert journal.after(Cursor()) == [*decisions[2:], inside]
    assert [line.index for line in journal.samples("b_1")] == [3, 4]
    assert journal.outcome("c_1") is None


def test_the_journal_outlives_the_process(stores: Opened, reopen: Reopen) -> None:
    decisions = [step(1, refs("b_1", 0)), step(2, refs("b_1", 1))]
    for decision in decisions:
        stores.journal.record(decision)
    stores.journal.in_weights([(1, 1)], 2)
    journal = reopen().journal
    assert journal.after(Cursor()) == decisions
    assert [line.rolled_back for line in journal.samples("b_1")] == [False, True]


def test_wait_is_over_when_enough_samples_are_decided(journal: Journal) -> None:
    assert not journal.wait("b_1", 3, 0.01)
    journal.record(step(1, refs("b_1", 0, 1)))
    assert journal.wait("b_1", 2, 0.0)
    assert not journal.wait("b_1", 3, 0.01)
    journal.record(step(2, refs("b_1", 1), RELEASED, command="c_1"))
    assert not journal.wait("b_1", 3, 0.01), "a sample that was released was counted twice"
    journal.record(step(3, refs("b_1", 2)))
    assert journal.wait("b_1", 3, 0.0)


def test_wait_is_over_when_a_command_has_its_outcome(journal: Journal) -> None:
    assert not journal.wait("c_1", 0, 0.01)
    journal.record(Decision(step=1, start=Cursor(), end=Cursor(1), command="c_1"))
    assert journal.wait("c_1", 0, 0.0)
    assert journal.outcome("c_1") == {}


def test_a_record_wakes_who_waits(journal: Journal) -> None:
    with ThreadPoolExecutor(2) as pool:
        batch = pool.submit(journal.wait, "b_1", 2, 20.0)
        command = pool.submit(journal.wait, "c_1", 0, 20.0)
        journal.record(step(1, refs("b_1", 0)))
        journal.record(step(2, refs("b_1", 1)))
        assert batch.result(timeout=10.0)
        journal.record(step(3, (), command="c_1"))
        assert command.result(timeout=10.0)
