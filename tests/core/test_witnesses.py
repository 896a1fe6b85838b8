"""Medians over the others of each."""

from __future__ import annotations

import pytest
import torch

from weir.core.witnesses import Middle


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 31])
def test_a_median_without_one_row_is_that_of_the_others(n: int) -> None:
    values = torch.randn(n, 40, generator=torch.Generator().manual_seed(n)).round()  # many of them tie
    middle = Middle(values)
    found = middle.without([None, *range(n)])
    assert torch.equal(found[0], values.median(0).values)
    for row in range(n):
        others = [other for other in range(n) if other != row]
        assert torch.equal(found[1 + row], values[others].median(0).values)
