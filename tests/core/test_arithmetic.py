"""What the anchor and glances score in, and that they score there as in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import torch

from weir.core import Engine, EngineConfig
from weir.core.arithmetic import LARGE, computes_in_bfloat16, decided, scoring
from weir.core.config import SnapshotConfig
from weir.core.network import Network
from weir.core.ranks import Alone
from weir.types import Arithmetic, InputSpec, Recipe

if TYPE_CHECKING:
    from tests.core.conftest import World

CPU = torch.device("cpu")
SMALL = Network(Recipe("mlp", InputSpec((8,), 2), {"hidden": 4}))
BIG = Network(Recipe("mlp", InputSpec((1000,), 2), {"hidden": 1000}))


def processor(monkeypatch: pytest.MonkeyPatch, has: Mapping[str, bool]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)


@pytest.mark.parametrize("network", [SMALL, BIG])
@pytest.mark.parametrize("wanted", [Arithmetic.FLOAT32, Arithmetic.BFLOAT16])
def test_what_is_asked_for_is_taken_whatever_the_processor_has(network: Network, wanted: Arithmetic) -> None:
    assert decided(wanted, network) is wanted


@pytest.mark.parametrize(
    ("network", "has", "arithmetic"),
    [
        (BIG, {"avx512_bf16": True}, Arithmetic.BFLOAT16),
        (BIG, {"avx512_bf16": False}, Arithmetic.FLOAT32),
        (BIG, {}, Arithmetic.FLOAT32),
        (SMALL, {"avx512_bf16": True}, Arithmetic.FLOAT32),
    ],
)
def test_a_large_model_scores_in_bfloat16_where_the_processor_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, network: Network, has: Mapping[str, bool], arithmetic: Arithmetic
) -> None:
    processor(monkeypatch, has)
    assert decided(Arithmetic.AUTO, network) is arithmetic


def test_a_torch_that_does_not_tell_what_the_processor_has_scores_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not computes_in_bfloat16(CPU)


@pytest.mark.parametrize("has", [True, False])
def test_a_graphics_processor_is_asked_for_instructions_of_its_own(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has and not including_emulation)
    assert computes_in_bfloat16(torch.device("cuda")) is has


@pytest.mark.parametrize(("lacking", "arithmetic"), [(0, Arithmetic.BFLOAT16), (1, Arithmetic.FLOAT32)])
def test_one_rank_without_is_enough_for_all_to_score_in_float32(
    monkeypatch: pytest.MonkeyPatch, lacking: int, arithmetic: Arithmetic
) -> None:
    class Some(Alone):
        def add(self, tensors: Sequence[torch.Tensor]) -> None:
            for tensor in tensors:
                tensor += lacking

    processor(monkeypatch, {"avx512_bf16": True})
    assert decided(Arithmetic.AUTO, BIG, Some()) is arithmetic


def test_an_engine_scores_in_what_its_configuration_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, {"avx512_bf16": True})
    kept: dict[Arithmetic, torch.dtype] = {}
    for arithmetic in Arithmetic:
        engine = Engine(BIG.recipe, EngineConfig(snapshots=SnapshotConfig(arithmetic=arithmetic)))
        engine.set_anchor()
        anchor = engine._snapshots.anchor
        assert anchor is not None
        kept[arithmetic] = anchor.scoring["1.weight"].dtype
        assert anchor.weights["1.weight"].dtype is torch.float32
    assert kept == {
        Arithmetic.AUTO: torch.bfloat16,
        Arithmetic.FLOAT32: torch.float32,
        Arithmetic.BFLOAT16: torch.bfloat16,
    }


def test_the_models_at_hand_are_on_either_side_of_large() -> None:
    assert sum(p.numel() for p in SMALL.module.parameters()) < LARGE <= sum(p.numel() for p in BIG.module.parameters())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("arithmetic", "error"), [(Arithmetic.FLOAT32, 1e-5), (Arithmetic.BFLOAT16, 2e-2)])
def test_a_snapshot_scores_as_its_weights_do_in_any_arithmetic(
    image_recipe: Recipe, arithmetic: Arithmetic, error: float, layout: torch.memory_format
) -> None:
    """The relative error against the plain pass in float32."""
    network = Network(image_recipe)
    for seed in range(5):
        x = network.prepare(torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
        with torch.no_grad():
            plain, scored = network.outputs(x), network.outputs(x, scoring(network.snapshot(), arithmetic, layout))
        assert scored.logits.dtype == torch.float32
        assert float((scored.logits - plain.logits).abs().max() / plain.logits.abs().max()) < error
        assert plain.features is not None
        assert scored.features is not None
        assert float((scored.features - plain.features).abs().max() / plain.features.abs().max()) < error


def test_a_glance_scores_as_it_does_in_float32_but_for_rounding(world: World) -> None:
    harm = {}
    for arithmetic in Arithmetic.FLOAT32, Arithmetic.BFLOAT16:
        engine = world.engine(snapshots=SnapshotConfig(arithmetic=arithmetic))
        *_, last = world.run(engine, 1, 3)
        assert last.gate is not None
        assert last.gate.statistic is None
        harm[arithmetic] = last.gate.harm
    assert harm[Arithmetic.BFLOAT16] != harm[Arithmetic.FLOAT32]
    assert harm[Arithmetic.BFLOAT16] == pytest.approx(harm[Arithmetic.FLOAT32], abs=5e-3)
