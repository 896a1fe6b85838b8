"""What ranks do together, in groups of real processes."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from tests.ranks import run

from weir.core.group import Group
from weir.core.ranks import Alone
from weir.errors import GroupLost, RankFailed


def rows(n: int) -> torch.Tensor:
    return torch.arange(n * 2, dtype=torch.float32).view(n, 2)


def passed_on(group: Group, word: bytes) -> bytes:
    if group.rank == 0:
        group.tell(word)
    return word if group.rank == 0 else group.hear()


def seen(group: Group) -> dict[str, Any]:
    """Everything that a group does, on steps of several sizes."""
    dealt, whole, counted = [], [], []
    for n in (1, 2, 7, 9):
        given = rows(n) if group.rank == 0 else rows(n).to("meta")
        mine = group.deal(given)
        dealt.append(torch.equal(mine, group.own(rows(n))))
        whole.append(torch.equal(group.gather(mine, n), rows(n)))
        counted.append(group.counted(torch.ones(n, dtype=torch.bool)).tolist())
    sums = [torch.full((2, 3), float(group.rank)), torch.tensor([0.1 * (group.rank + 1)])]
    group.add(sums)
    flags = group.gather(torch.tensor([group.rank == 1]), group.size)
    agreed = group.agree(torch.tensor([group.rank + 5]))
    heard = [passed_on(group, word) for word in (b"one", b"two", b"three" * 1000)]
    return {
        "dealt": all(dealt),
        "whole": all(whole),
        "counted": counted,
        "sums": [value.tolist() for value in sums],
        "flags": flags.tolist(),
        "agreed": agreed.tolist(),
        "heard": heard,
    }


def test_every_row_is_counted_by_one_rank_and_what_is_gathered_is_in_order() -> None:
    by_rank = run(3, seen)
    assert [all((one["dealt"], one["whole"])) for one in by_rank] == [True] * 3
    for number, n in enumerate((1, 2, 7, 9)):
        counted = [flag for one in by_rank for flag in one["counted"][number]]
        assert counted == [row < n for row in range(len(counted))]
    zero, _, two = by_rank
    assert zero["sums"] == two["sums"]
    assert zero["sums"][0] == [[3.0] * 3] * 2
    assert [one["flags"] for one in by_rank] == [[False, True, False]] * 3
    assert [one["agreed"] for one in by_rank] == [[5]] * 3
    assert [one["heard"] for one in by_rank] == [[b"one", b"two", b"three" * 1000]] * 3


def test_one_process_is_a_group_of_its_own() -> None:
    alone, given = Alone(), rows(3)
    assert alone.deal(given) is given is alone.own(given) is alone.gather(given, 3) is alone.agree(given)
    flags = torch.tensor([True, False])
    assert alone.counted(flags) is flags


def fails_on_one(group: Group) -> list[str]:
    """Rank 1 cannot do its part of two things; all go on with a third."""
    said = []
    for _ in range(2):
        try:
            with group.together("a part"):
                if group.rank == 1:
                    raise ValueError("this rank's rows are odd")
        except (ValueError, RankFailed) as error:
            said.append(f"{type(error).__name__}: {error}")
    return [*said, str(group.settled(lambda: 3, str))]


def test_what_fails_on_one_rank_fails_on_all_and_the_group_goes_on() -> None:
    zero, one = run(2, fails_on_one)
    assert one == ["ValueError: this rank's rows are odd"] * 2 + ["3"]
    assert zero == ["RankFailed: rank 1: ValueError: this rank's rows are odd"] * 2 + ["3"]


def parts(group: Group) -> None:
    """Rank 1 comes to another end."""
    group.settled(lambda: group.rank, str)


def strays(group: Group) -> None:
    """Rank 1 raises where no other does, while these are on their way to a collective."""

    def work() -> None:
        if group.rank == 1:
            raise MemoryError("here alone")
        with group.together("a part"):
            pass

    group.settled(work)


@pytest.mark.parametrize("job", [parts, strays])
def test_a_rank_that_leaves_its_course_ends_the_group(job: Any) -> None:
    answers = run(2, job)
    assert [type(answer) for answer in answers] == [GroupLost, GroupLost]
    assert "parted" in str(answers[0])


def dies(group: Group, who: int) -> Any:
    """One rank is killed once both have met, and the other waits for it; and once more."""
    group.settled(lambda: None)
    if group.rank == who:
        os.kill(os.getpid(), signal.SIGKILL)
    told = []
    for _ in range(2):
        try:
            group.hear() if group.rank else group.meet("a place")
        except GroupLost as error:
            told.append(str(error))
    return told


@pytest.mark.parametrize("who", [0, 1])
def test_who_waits_for_a_rank_that_was_killed_hears_of_it(who: int) -> None:
    told = run(2, dies, who, lost=1)[1 - who]
    assert "no longer answers" in told[0]
    assert told[1] == "the group of ranks is lost"
