"""Terms: any of them can be set, and what does not fit is explained."""

from __future__ import annotations

import pytest

from weir.bench.terms import PRESETS, Terms, changed
from weir.errors import InvalidSetting


def test_every_kind_of_term_is_read_as_what_it_is() -> None:
    terms = changed(Terms(), ["probe=300", "momentum=0", "epsilon=0.1", "model=cnn", 'options={"width": 4}'])
    assert (terms.probe, terms.momentum, terms.epsilon, terms.model) == (300, 0.0, 0.1, "cnn")
    assert dict(terms.options) == {"width": 4}
    assert changed(terms, ["epsilon=none"]).epsilon is None
    assert changed(terms, []) == terms


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("probe=many", "probe: expected a whole number, got many"),
        ("lr=", "lr: expected a number"),
        ("options=[1]", "options: expected a JSON object"),
        ("norm_mode=melted", "norm_mode: expected frozen or train"),
        ("prob=3", "one of the names .*probe.*trigger"),
        ("probe", "probe: expected a whole number"),
    ],
)
def test_what_does_not_fit_names_the_term_and_what_it_takes(assignment: str, expected: str) -> None:
    with pytest.raises(InvalidSetting, match=expected):
        changed(Terms(), [assignment])


def test_images_are_attacked_with_as_many_steps_as_the_published_code() -> None:
    assert PRESETS["digits"].attack_steps == 10
    assert {PRESETS[name].attack_steps for name in ("mnist", "cifar10")} == {2}
