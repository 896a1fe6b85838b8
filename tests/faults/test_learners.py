"""Two learners of one log: one is kept out, and a learner that was thought dead writes nothing when it wakes."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.faults import harness
from tests.faults.backends import BACKENDS
from tests.faults.service import Service

ENVIRONMENT = {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE}


def test_a_paused_learner_keeps_its_folder_and_goes_on(tmp_path: Path, template: Path) -> None:
    with BACKENDS["sqlite"](tmp_path / "data", template) as backend:
        with harness.Trial(backend, tmp_path / "log", seed=7, environment=ENVIRONMENT) as trial:
            trial.serve()
            trial.wait_for(20)
            trial.service.signal(signal.SIGSTOP)
            with Service({**ENVIRONMENT, **backend.environment}, tmp_path / "second") as second:
                second.start()
                assert second.wait_until_it_ends() == 1
                assert "in use by another weir process" in second.told
            trial.service.signal(signal.SIGCONT)
            trial.wait_for(20)
            trial.finish()
        trial.outcome().check()
