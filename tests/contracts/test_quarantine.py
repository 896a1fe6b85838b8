"""What every quarantine owes: samples once, pages that do not shift, and moves that nobody makes twice."""

from __future__ import annotations

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from weir.errors import Conflict, InvalidInput, NotFound
from weir.stores.base import Held, HeldFilter, HeldState, Quarantine, QuarantineSize
from weir.types import Reason, SampleVerdict, Verdict

if TYPE_CHECKING:
    from tests.contracts.conftest import Opened, Reopen

ANY = HeldFilter()


def held(index: int = 0, *, batch: str = "b_1", producer: str = "ada", reason: Reason = Reason.SAMPLE) -> Held:
    return Held(
        batch=batch,
        index=index,
        producer=producer,
        label=index % 3,
        step=4,
        verdict=SampleVerdict(Verdict.QUARANTINE, reason, 0.1 + 0.2, math.inf, None, 1e-300),
        payload=b"\x00sample %d" % index,
        held_at=100.0 + index,
        sample_id=f"row {index}",
    )


def bare(sample: Held) -> Held:
    """A sample as a page lists it."""
    return dataclasses.replace(sample, payload=b"")


def test_a_sample_comes_back_as_it_was_put(quarantine: Quarantine) -> None:
    resolved = dataclasses.replace(
        held(1), state=HeldState.DISCARDED, relabel=2, resolved_by="eve", resolved_at=9.5, note="why", sample_id=None
    )
    quarantine.put([held(0), resolved])
    assert quarantine.get("b_1:0") == held(0)
    assert quarantine.get("b_1:1") == resolved


@pytest.mark.parametrize("id", ["b_1:1", "b_1", "b_1:", "b_1:00", "b_1:x", "", ":0", "b_1:" + "9" * 5000])
def test_an_id_that_nothing_has_is_not_found(quarantine: Quarantine, id: str) -> None:
    quarantine.put([held(0)])
    with pytest.raises(NotFound):
        quarantine.get(id)
    with pytest.raises(NotFound):
        quarantine.move(id, HeldState.DISCARDED, expect=[HeldState.HELD])


def test_a_second_put_repeats_nothing_and_resurrects_nobody(quarantine: Quarantine) -> None:
    quarantine.put([held(0), held(1)])
    quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.HELD], by="eve", at=5.0)
    quarantine.put([held(0), held(1), held(2)])
    quarantine.put([])
    samples, _ = quarantine.page(ANY, None, 10)
    assert [sample.id for sample in samples] == ["b_1:0", "b_1:1", "b_1:2"]
    assert quarantine.get("b_1:0").state is HeldState.DISCARDED


def test_pages_follow_the_order_of_arrival_without_payloads(quarantine: Quarantine) -> None:
    samples = [held(index) for index in (4, 2, 9, 0, 7)]
    quarantine.put(samples)
    first, cursor = quarantine.page(ANY, None, 2)
    second, cursor = quarantine.page(ANY, cursor, 2)
    third, end = quarantine.page(ANY, cursor, 2)
    assert [*first, *second, *third] == [bare(sample) for sample in samples]
    assert end is None


def test_a_page_that_ends_with_the_last_sample_is_the_last(quarantine: Quarantine) -> None:
    quarantine.put([held(0), held(1)])
    assert quarantine.page(ANY, None, 2) == ([bare(held(0)), bare(held(1))], None)
    assert quarantine.page(HeldFilter(producer="nobody"), None, 2) == ([], None)


def test_a_cursor_is_stable_while_samples_come_and_change(quarantine: Quarantine) -> None:
    quarantine.put([held(index) for index in range(4)])
    where = HeldFilter(state=HeldState.HELD)
    first, cursor = quarantine.page(where, None, 2)
    for sample in first:
        quarantine.move(sample.id, HeldState.DISCARDED, expect=[HeldState.HELD])
    quarantine.put([held(4)])
    rest, end = quarantine.page(where, cursor, 10)
    assert [sample.index for sample in rest] == [2, 3, 4]
    assert end is None


@pytest.mark.parametrize("cursor", ["", "-1", "x", "1;", "1.5", "9" * 30, "٣"])
def test_a_cursor_that_no_page_gave_is_refused(quarantine: Quarantine, cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        quarantine.page(ANY, cursor, 2)
    assert refused.value.field == "cursor"


def test_filters_choose_and_combine(quarantine: Quarantine) -> None:
    quarantine.put([held(0), held(1, producer="bob"), held(2, batch="b_2"), held(3, reason=Reason.VETO)])
    quarantine.move("b_1:1", HeldState.DISCARDED, expect=[HeldState.HELD])

    def found(where: HeldFilter) -> list[int]:
        return [sample.index for sample in quarantine.page(where, None, 10)[0]]

    assert found(HeldFilter(state=HeldState.HELD)) == [0, 2, 3]
    assert found(HeldFilter(producer="bob")) == [1]
    assert found(HeldFilter(reason="veto")) == [3]
    assert found(HeldFilter(batch="b_2")) == [2]
    assert found(HeldFilter(label=0)) == [0, 3]
    assert found(HeldFilter(label=0, reason="sample")) == [0]
    assert found(HeldFilter(producer="bob", state=HeldState.HELD)) == []


def test_a_move_keeps_what_it_does_not_name(quarantine: Quarantine) -> None:
    quarantine.put([held(0)])
    asked = quarantine.move(
        "b_1:0", HeldState.RELEASE_VETOED, expect=[HeldState.HELD], by="eve", at=5.0, relabel=0, note="looks fine"
    )
    expected = dataclasses.replace(
        held(0), state=HeldState.RELEASE_VETOED, resolved_by="eve", resolved_at=5.0, relabel=0, note="looks fine"
    )
    assert asked == quarantine.get("b_1:0") == expected
    done = quarantine.move("b_1:0", HeldState.RELEASED, expect=[HeldState.RELEASE_VETOED])
    assert done == quarantine.get("b_1:0") == dataclasses.replace(expected, state=HeldState.RELEASED)


def test_a_move_from_another_state_is_a_conflict(quarantine: Quarantine) -> None:
    quarantine.put([held(0)])
    with pytest.raises(Conflict, match=r"b_1:0.*held"):
        quarantine.move("b_1:0", HeldState.RELEASED, expect=[HeldState.RELEASED, HeldState.RELEASE_VETOED], by="eve")
    assert quarantine.get("b_1:0") == held(0)


def test_of_many_moves_at_once_one_succeeds(quarantine: Quarantine) -> None:
    quarantine.put([held(0)])
    start = threading.Barrier(8)

    def discard(reviewer: int) -> str | None:
        start.wait()
        try:
            return quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.HELD], by=f"{reviewer}").resolved_by
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [winner for winner in pool.map(discard, range(8)) if winner is not None]
    assert winners == [quarantine.get("b_1:0").resolved_by]


def test_size_counts_what_is_held(quarantine: Quarantine) -> None:
    assert quarantine.size() == QuarantineSize(0, None)
    quarantine.put([held(2), held(1), held(0)])
    assert quarantine.size() == QuarantineSize(3, 100.0)
    quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.HELD])
    assert quarantine.size() == QuarantineSize(2, 101.0)


def test_the_quarantine_outlives_the_process(stores: Opened, reopen: Reopen) -> None:
    stores.quarantine.put([held(0), held(1)])
    moved = stores.quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.HELD], by="eve", at=5.0)
    assert reopen().quarantine.page(ANY, None, 10)[0] == [bare(moved), bare(held(1))]


def test_held_by_counts_one_producers_held_samples(quarantine: Quarantine) -> None:
    assert quarantine.held_by("ada") == 0
    quarantine.put([held(0, producer="ada"), held(1, producer="ada"), held(2, producer="bob")])
    assert (quarantine.held_by("ada"), quarantine.held_by("bob")) == (2, 1)
    quarantine.move("b_1:0", HeldState.DISCARDED, expect=[HeldState.HELD])
    assert (quarantine.held_by("ada"), quarantine.held_by("eve")) == (1, 0)


def test_what_is_held_too_long_is_discarded_and_says_so(quarantine: Quarantine) -> None:
    quarantine.put([held(0), held(1), held(2)])
    quarantine.move("b_1:0", HeldState.RELEASED, expect=[HeldState.HELD], by="eve", at=5.0)
    assert quarantine.expire(held(2).held_at, by="weir", at=500.0, note="too long") == 1
    old = quarantine.get("b_1:1")
    assert (old.state, old.resolved_by, old.resolved_at, old.note) == (HeldState.DISCARDED, "weir", 500.0, "too long")
    assert quarantine.get("b_1:0").state is HeldState.RELEASED
    assert quarantine.get("b_1:2").state is HeldState.HELD
    assert quarantine.size() == QuarantineSize(1, held(2).held_at)
    assert quarantine.expire(held(2).held_at, by="weir", at=501.0, note="again") == 0


def test_what_was_resolved_long_ago_is_deleted(quarantine: Quarantine) -> None:
    quarantine.put([held(index) for index in range(4)])
    quarantine.move("b_1:0", HeldState.RELEASED, expect=[HeldState.HELD], at=10.0)
    quarantine.move("b_1:1", HeldState.DISCARDED, expect=[HeldState.HELD], at=11.0)
    quarantine.move("b_1:2", HeldState.DISCARDED, expect=[HeldState.HELD], at=99.0)
    assert quarantine.drop_resolved(50.0) == 2
    left, _ = quarantine.page(ANY, None, 10)
    assert [sample.index for sample in left] == [2, 3]


def test_what_is_dropped_is_gone_and_may_be_put_again(quarantine: Quarantine) -> None:
    quarantine.put([held(0), held(1)])
    assert quarantine.drop(["b_1:0", "b_9:9"]) == 1
    assert quarantine.drop([]) == 0
    with pytest.raises(NotFound):
        quarantine.get("b_1:0")
    assert quarantine.size().samples == 1
    quarantine.put([held(0)])
    assert quarantine.get("b_1:0") == held(0)
