"""A full disk: refused by name while it lasts, nothing lost of what was acknowledged, and over without a restart."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.faults import harness, tmpfs
from tests.faults.backends import BACKENDS
from tests.faults.traffic import Traffic

SIZE = "12m"


@pytest.mark.needs("mount")
def test_a_full_disk_is_refused_by_name_and_outlived(tmp_path: Path, template: Path) -> None:
    environment = {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE}
    try:
        disk = tmpfs.mounted(tmp_path / "disk", size=SIZE)
        with disk as small, BACKENDS["sqlite"](small.path / "data", template) as backend:
            with harness.Trial(backend, tmp_path / "log", seed=6, environment=environment) as trial:
                _run_full(trial, small)
                trial.finish()
            trial.outcome().check()
    except PermissionError as error:
        pytest.skip(f"needs the program mount: {error}")


def _run_full(trial: harness.Trial, disk: tmpfs.SmallDisk) -> None:
    """Serve, fill the disk until that is answered, make room, and see to it that deliveries are taken again."""
    trial.serve()
    trial.wait_for(20)
    traffic, service = trial.traffic, trial.service
    disk.fill()
    service.wait(lambda: _refusals(traffic), "refuse for want of space")
    assert httpx.get(f"{service.address}/health/live", trust_env=False).status_code == 200
    assert {status for status, _ in traffic.refused} <= {503, 507}, traffic.refused
    disk.empty()
    trial.wait_for(20)
    assert service.exit is None


def _refusals(traffic: Traffic) -> int:
    return traffic.refused.count((507, "storage_full"))
