"""What numbers a model scores in where it only has to be measured alike, and nothing is learned."""

from __future__ import annotations

import torch
from torch import Tensor

from weir.core.network import Network, Weights
from weir.core.ranks import ALONE, Ranks
from weir.types import Arithmetic

DTYPES = {Arithmetic.FLOAT32: torch.float32, Arithmetic.BFLOAT16: torch.bfloat16}
# Parameters from which on bfloat16 halves what a pass takes, of the models in performance-notes.md. Smaller ones save
# milliseconds by it or lose, and its rounding, half a percent of a logit, is not worth these.
LARGE = 1_000_000


def decided(wanted: Arithmetic, network: Network, ranks: Ranks = ALONE) -> Arithmetic:
    """What a network's anchor and glances score in: what is wanted, or what suits the model and all ranks' devices."""
    if wanted is not Arithmetic.AUTO:
        return wanted
    large = sum(parameter.numel() for parameter in network.module.parameters()) >= LARGE
    unsuited = torch.tensor([float(not (large and computes_in_bfloat16(network.device)))])
    ranks.add([unsuited])
    return Arithmetic.FLOAT32 if bool(unsuited) else Arithmetic.BFLOAT16


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device is known to have instructions for bfloat16 that torch makes use of; without, it is far slower.

    Of processors those with AVX-512 for it are, from torch 2.13 on; no others were at hand.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def scoring(weights: Weights, arithmetic: Arithmetic, layout: torch.memory_format) -> dict[str, Tensor]:
    """Weights to score with, in this arithmetic and layout."""
    dtype = DTYPES[arithmetic]
    return {
        name: tensor.to(
            dtype if tensor.is_floating_point() else tensor.dtype,
            memory_format=layout if tensor.ndim == 4 else torch.preserve_format,
        )
        for name, tensor in weights.items()
    }
