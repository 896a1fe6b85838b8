"""Tests that need a missing program are left out, are counted, and fail a run that must be complete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("complete", "status"), [("0", 0), ("1", 1)])
def test_what_is_left_out_is_told(complete: str, status: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts/test_audit.py"],
        cwd=Path(__file__).parents[1],
        env={
            **os.environ,
            "PATH": "/nowhere",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TESTS_COMPLETE": complete,
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == status, run.stdout
    assert "left out: 2 tests, need redis-server" in run.stdout
