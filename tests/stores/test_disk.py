"""Checkpoints: bit-exact, atomic, verified, and passed over aloud when damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from weir.errors import DamagedCheckpoint, InvalidSetting, NotFound, StorageFailed, StorageFull
from weir.stores.base import CheckpointInfo, Cursor
from weir.stores.disk import CheckpointFolder
from weir.types import State

SMALL = State({"w": torch.arange(6.0).reshape(2, 3)}, {"updates": 1})


def save(folder: CheckpointFolder, step: int = 1, state: State = SMALL) -> CheckpointInfo:
    return folder.save(state, step=step, cursor=Cursor(step, 2), at=100.0 + step, reason="periodic")


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy()) if tensor.numel() else b""


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def folder(path: Path) -> CheckpointFolder:
    return CheckpointFolder(path)


def test_tensors_of_every_kind_come_back_bit_for_bit(folder: CheckpointFolder) -> None:
    base = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    odd = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, -0.0, 1e-45])
    tensors = {
        "float32": odd,
        "float64": odd.double(),
        "bfloat16": base.bfloat16(),
        "float16": base.half(),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": base > 0,
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "whole": base,
        "same": base,
        "view": base[2:4],
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "grad": base.clone().requires_grad_(),
        "channels_last": base.reshape(1, 4, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    _, state = folder.load(save(folder, state=State(tensors, {})).id)
    assert set(state.tensors) == set(tensors)
    for name, tensor in tensors.items():
        back = state.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), name
        assert bits(back) == bits(tensor.detach()), name
        assert not back.requires_grad


def test_loaded_tensors_belong_to_the_caller(folder: CheckpointFolder) -> None:
    info = save(folder)
    folder.load(info.id)[1].tensors["w"].fill_(9.0)
    assert torch.equal(folder.load(info.id)[1].tensors["w"], SMALL.tensors["w"])


def test_values_come_back_exactly_and_in_their_order(folder: CheckpointFolder) -> None:
    values: dict[str, Any] = {
        "z": 0.1 + 0.2,
        "a": [5e-324, -0.0, math.inf, 2**70, None, True, "naïve"],
        "producers": {"zoe": 1, "ada": 2, "10": 3, "9": 4},
        "nested": {"engine": {"deep": [{"x": 1}]}},
    }
    _, state = folder.load(save(folder, state=State({}, values)).id)
    assert repr(state.values) == repr(values)


def test_values_that_json_changes_do_not_damage_a_checkpoint(folder: CheckpointFolder) -> None:
    info = save(folder, state=State({}, {"by_class": {10: 1.0, 9: math.nan}, "pair": (1, 2)}))
    _, state = folder.load(info.id)
    assert state.values["pair"] == [1, 2]
    assert list(state.values["by_class"]) == ["10", "9"]
    assert math.isnan(state.values["by_class"]["9"])


def test_a_header_says_what_the_checkpoint_is(folder: CheckpointFolder, path: Path) -> None:
    info = folder.save(SMALL, step=12, cursor=Cursor(3, 4), at=99.5, reason="rollback")
    assert (info.step, info.cursor, info.created_at, info.reason) == (12, Cursor(3, 4), 99.5, "rollback")
    assert info.bytes == sum(file.stat().st_size for file in (path / info.id).iterdir())
    assert folder.load(info.id)[0] == info
    assert folder.all() == [info]
    assert CheckpointFolder(path).all() == [info]


def test_the_digest_names_the_state(folder: CheckpointFolder) -> None:
    first, second = save(folder), save(folder, state=State({"w": SMALL.tensors["w"] + 1}, SMALL.values))
    assert first.digest != second.digest


def test_newest_is_the_last_saved_though_its_step_is_older(folder: CheckpointFolder, path: Path) -> None:
    assert folder.newest() is None
    saved = [save(folder, step) for step in (900, 1000, 50, 50)]
    assert len({info.id for info in saved}) == 4
    assert sorted(info.id for info in saved) == [info.id for info in saved]
    assert folder.all() == saved
    newest = CheckpointFolder(path).newest()
    assert newest is not None
    assert newest[0] == saved[-1]


def test_the_newest_are_kept_and_counting_goes_on(path: Path) -> None:
    saved = [save(CheckpointFolder(path, keep=2), step) for step in (7, 8, 3, 9)]
    assert names(path) == [info.id for info in saved[2:]]
    with pytest.raises(NotFound):
        CheckpointFolder(path).load(saved[0].id)


def test_old_ones_go_however_few_there_are_but_for_two(path: Path) -> None:
    """They are saved at a little over 100 seconds; the clock says when retention looks."""
    now = [100.0]
    folder = CheckpointFolder(path, keep=10, keep_seconds=50.0, clock=lambda: now[0])
    saved = [save(folder, step) for step in (1, 2, 3)]
    assert names(path) == [info.id for info in saved]
    now[0] = 200.0
    saved.append(save(folder, 4))
    assert names(path) == [info.id for info in saved[-2:]], "the newest two stay, whatever their age"


def test_a_full_disk_is_told_from_a_broken_one(
    folder: CheckpointFolder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(folder)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for fail, kind in ((full, StorageFull), (broken, StorageFailed)):
        monkeypatch.setattr("weir.stores.disk.os.fsync", fail)
        with pytest.raises(StorageFailed) as refused:
            save(folder)
        assert type(refused.value) is kind
    assert names(path) == [saved.id], "half a checkpoint was left"


def test_keeping_none_is_refused(path: Path) -> None:
    with pytest.raises(InvalidSetting):
        CheckpointFolder(path, keep=0)


@pytest.mark.parametrize(
    "id",
    [
        "",
        ".",
        "00000001",
        "../secret/00000001-1",
        "00000001-1/../../secret/00000001-1",
        "/etc",
        "00000009-1",
        "00000001-1\n",
    ],
)
def test_a_foreign_id_is_not_found(tmp_path: Path, id: str) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert save(folder).id == save(CheckpointFolder(tmp_path / "secret")).id == "00000001-1"
    with pytest.raises(NotFound):
        folder.load(id)


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty"])
def test_damage_is_found_and_the_file_named(folder: CheckpointFolder, path: Path, file: str, damage: str) -> None:
    info = save(folder)
    target = path / info.id / file
    if damage == "missing":
        target.unlink()
    elif damage == "flipped":
        flip(target, target.stat().st_size - 10)
    else:
        os.truncate(target, target.stat().st_size - 1 if damage == "truncated" else 0)
    with pytest.raises(DamagedCheckpoint, match=rf"{info.id}/{file}: "):
        folder.load(info.id)


def test_every_bit_of_a_checkpoint_counts(folder: CheckpointFolder, path: Path) -> None:
    info = save(folder)
    for file in (path / info.id).iterdir():
        for at in range(0, file.stat().st_size, 7):
            flip(file, at)
            with pytest.raises(DamagedCheckpoint):
                folder.load(info.id)
            flip(file, at)
    assert folder.load(info.id)[0] == info


def test_a_renamed_checkpoint_is_damaged(folder: CheckpointFolder, path: Path) -> None:
    info = save(folder)
    (path / info.id).rename(path / "00000007-1")
    with pytest.raises(DamagedCheckpoint, match=rf"state\.json: expected the checkpoint 00000007-1, got {info.id}"):
        folder.load("00000007-1")


def test_a_value_changed_by_hand_is_damage(folder: CheckpointFolder, path: Path) -> None:
    info = save(folder)
    rewrite(path / info.id / "state.json", values={"updates": 2})
    with pytest.raises(DamagedCheckpoint, match="SHA-256"):
        folder.load(info.id)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "{", '{"sha256": 1}'])
def test_another_layout_is_damage(folder: CheckpointFolder, path: Path, content: str) -> None:
    info = save(folder)
    (path / info.id / "state.json").write_text(content)
    with pytest.raises(DamagedCheckpoint, match=r"state\.json"):
        folder.load(info.id)


def test_all_leaves_damaged_ones_out(folder: CheckpointFolder, path: Path) -> None:
    saved = [save(folder, step) for step in range(3)]
    (path / saved[0].id / "state.json").unlink()
    os.truncate(path / saved[1].id / "tensors.safetensors", 10)
    assert folder.all() == [saved[2]]


def test_newest_falls_back_aloud(folder: CheckpointFolder, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad, worse = (save(folder, step) for step in range(3))
    flip(path / bad.id / "tensors.safetensors", 90)
    (path / worse.id / "state.json").unlink()
    with caplog.at_level(logging.WARNING, "weir.stores.disk"):
        newest = folder.newest()
    assert newest is not None
    assert newest[0] == good
    assert torch.equal(newest[1].tensors["w"], SMALL.tensors["w"])
    warned = [(record.name, record.levelname) for record in caplog.records]
    assert warned == [("weir.stores.disk", "WARNING")] * 2
    assert worse.id in caplog.messages[0]
    assert bad.id in caplog.messages[1]
    assert "SHA-256" in caplog.messages[1]


def test_a_fresh_save_comes_after_a_damaged_one(folder: CheckpointFolder, path: Path) -> None:
    bad = save(folder, 1)
    (path / bad.id / "state.json").unlink()
    fresh = save(folder, 1)
    assert fresh.id > bad.id
    newest = folder.newest()
    assert newest is not None
    assert newest[0] == fresh


def test_when_all_are_damaged_it_does_not_begin_anew(folder: CheckpointFolder, path: Path) -> None:
    for step in range(2):
        (path / save(folder, step).id / "tensors.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match="none of its 2 checkpoints"):
        folder.newest()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from weir.stores import disk
from weir.types import State

disk.sync_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL) if ".unfinished" in str(folder) else None
disk.CheckpointFolder(Path(sys.argv[1])).save(
    State({"w": torch.zeros(3)}, {}), step=2, cursor=disk.Cursor(), at=0.0, reason="killed")
"""


def test_a_save_that_was_killed_leaves_the_one_before(folder: CheckpointFolder, path: Path) -> None:
    info = save(folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False)
    assert killed.returncode == -9
    (leftover,) = set(names(path)) - {info.id}
    assert names(path / leftover) == ["state.json", "tensors.safetensors"]
    reopened = CheckpointFolder(path)
    assert names(path) == [info.id]
    assert reopened.all() == [info]


def test_what_another_process_is_writing_is_not_swept(folder: CheckpointFolder, path: Path) -> None:
    being_written = path / ".unfinished-now"
    being_written.mkdir()
    lock = os.open(being_written, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    CheckpointFolder(path)
    assert names(path) == [".unfinished-now"]
    os.close(lock)
    CheckpointFolder(path)
    assert names(path) == []


def test_a_full_disk_fails_the_save_and_leaves_nothing(folder: CheckpointFolder, path: Path) -> None:
    info = save(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StorageFailed, match="disk"):
            save(folder, 2, State({"w": torch.zeros(1 << 16)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(path) == [info.id]
    assert save(folder, 3).step == 3


def test_other_files_in_the_folder_are_left_alone(folder: CheckpointFolder, path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    (path / "older").mkdir()
    for step in range(7):
        save(folder, step)
    assert names(path)[-2:] == ["notes.txt", "older"]
    assert len(folder.all()) == 5
