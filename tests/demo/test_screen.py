"""What a terminal, a pipe and a quiet run get to see."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from tests.demo.conftest import Make

from weir.demo.outcome import judge
from weir.demo.record import Record
from weir.demo.screen import sparkline, summary, watching


def told(record: Record, *, terminal: bool = False, quiet: bool = False, encoding: str = "utf-8") -> str:
    """All that is written while a run is watched to its end."""
    buffer = io.BytesIO()
    written = io.TextIOWrapper(buffer, encoding=encoding)
    console = Console(file=written, force_terminal=terminal, width=100, height=40, color_system=None)
    with watching(console, quiet=quiet) as screen:
        screen.say("starting")
        for count in range(1, len(record.moments) + 1):
            screen.show(record.start, record.moments[:count], len(record.moments))
    written.flush()
    return buffer.getvalue().decode(encoding)


def test_a_sparkline_goes_from_one_end_of_its_scale_to_the_other() -> None:
    assert sparkline([0.0, 0.5, 1.0], 0.0, 1.0) == "▁▅█"
    assert sparkline([0.7, 0.7], 0.7, 0.7) == "▁▁"


def test_a_pipe_gets_one_plain_line_for_every_batch(make: Make) -> None:
    lines = told(make()).splitlines()
    assert lines[0] == "starting"
    assert len(lines) == 1 + 9
    assert "2/9  accumulative phase" in lines[2]
    assert "0 accepted, 0 corrected, 20 held" in lines[2]
    assert "guarded 85.0%  unguarded 40.0%  reference 85.0%" in lines[4]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_accuracies_sparklines_thresholds_and_counts(make: Make) -> None:
    last = told(make(), terminal=True).rpartition("weir demo")[2]
    assert "9/9" in last
    assert "honest stream again" in last
    assert sparkline([0.8, 0.82, 0.82, 0.82, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85], 0.4, 0.9) in last
    assert "0.150 / 0.300" in last
    assert "1.000 / 3.700" in last
    assert "133 accepted" in last
    assert "40 held" in last


def test_a_terminal_without_the_bars_in_its_encoding_is_served_all_the_same(make: Make) -> None:
    assert "honest stream again" in told(make(), terminal=True, encoding="ascii")


def test_a_quiet_run_says_nothing(make: Make) -> None:
    assert told(make(), quiet=True) == ""


def test_the_summary_says_which_condition_failed_with_its_figures(make: Make) -> None:
    record = make(guarded=(0.70, 0.70, 0.70, 0.88, 0.89, 0.90))
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as captured:
        console.print(summary(record, judge(record, judged=3), Path("there")), soft_wrap=True)
    text = captured.get()
    assert "FAIL the guard stops it: 16.0 points below the reference" in text
    assert "pass the attack bites without a guard: 36.0 points below" in text
    assert "FAILED" in text
    assert "there/demo-*.log" in text
