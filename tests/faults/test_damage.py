"""A checkpoint that a disk has damaged costs time, never what was learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults import harness
from tests.faults.backends import BACKENDS

from weir.errors import DamagedCheckpoint
from weir.stores.base import Stores


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = [(flip_a_bit, "tensors.safetensors"), (truncate, "state.json")]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(store: str, tmp_path: Path, template: Path) -> None:
    environment = {**harness.ENVIRONMENT, **harness.WITHOUT_VACCINE}
    with BACKENDS[store](tmp_path / "data", template) as backend:
        with harness.Trial(backend, tmp_path / "log", seed=5, environment=environment, commands=False) as trial:
            trial.serve()
            for damage, file in DAMAGES:
                _survive(trial, damage, file)
            trial.finish()
        trial.outcome(numbered=False).check()


def _survive(trial: harness.Trial, damage: Callable[[Path], None], file: str) -> None:
    """Kill the service once it has written another checkpoint, damage that, and go on."""
    service = trial.service
    service.wait(lambda: "written at step" in service.told, "write a checkpoint")
    trial.kill()
    with trial.backend.stores() as stores:
        before, newest = [info.id for info in stores.checkpoints.all() if _is_sound(stores, info.id)][-2:]
    damage(trial.backend.data / "checkpoints" / newest / file)
    trial.serve()
    assert f"checkpoint {newest} is damaged and passed over" in service.told
    assert f"checkpoint {before}, step" in service.told


def _is_sound(stores: Stores, checkpoint: str) -> bool:
    try:
        stores.checkpoints.load(checkpoint)
    except DamagedCheckpoint:
        return False
    return True
