"""What passes from the learner to its replicas, as bytes: the model with its checksum, and the word beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from weir import codec
from weir.errors import DamagedPublication, InvalidBatch
from weir.stores.base import CheckpointInfo, Cursor, PublishedModel
from weir.types import GuardMode, LearnerStatus, ProbeInfo, ProducerReport, Publication, Recipe, Standing


@dataclass(frozen=True, slots=True)
class Word:
    """Where the learner stands and is found; ``current`` says that the model published last is its newest."""

    status: LearnerStatus
    checkpoints: tuple[CheckpointInfo, ...]
    address: str
    current: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A published model that was verified: the step that made it, how to build it, and its tensors by name."""

    step: int
    recipe: Recipe
    weights: Mapping[str, Tensor]


def pack(publication: Publication) -> tuple[bytes, str]:
    """A model as safetensors, and the SHA-256 of these bytes, in hex."""
    metadata = {"step": str(publication.step), "recipe": json.dumps(publication.recipe.to_values())}
    payload = codec.encode_tensors(publication.weights, metadata)
    return payload, hashlib.sha256(payload).hexdigest()


def unpack(model: PublishedModel) -> Model:
    """The model in what ``pack`` made; raises DamagedPublication unless it is that to the last bit."""
    if (seen := hashlib.sha256(model.payload).hexdigest()) != model.digest:
        raise DamagedPublication(
            f"published model {model.version}: expected the SHA-256 {model.digest}, got {seen}: the learner's next one "
            "takes its place"
        )
    try:
        weights, metadata = codec.decode_tensors(model.payload)
        return Model(int(metadata["step"]), Recipe.from_values(json.loads(metadata["recipe"])), weights)
    except (InvalidBatch, LookupError, TypeError, ValueError) as error:
        raise DamagedPublication(
            f"published model {model.version}: {error!r}: run the same version of Weir as learner and replica"
        ) from error


def written(word: Word) -> bytes:
    """A word as JSON."""
    return json.dumps(asdict(word)).encode()


def read(text: bytes) -> Word:
    """The word that ``written`` wrote; raises DamagedPublication."""
    try:
        values = json.loads(text)
        infos = [CheckpointInfo(**{**info, "cursor": Cursor(*info["cursor"])}) for info in values["checkpoints"]]
        return Word(_status(values["status"]), tuple(infos), str(values["address"]), bool(values["current"]))
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedPublication(
            f"the learner's word: {error!r}: run the same version of Weir as learner and replica"
        ) from error


def _status(values: Mapping[str, Any]) -> LearnerStatus:
    probe = values["probe"]
    producers = [ProducerReport(**{**each, "standing": Standing(each["standing"])}) for each in values["producers"]]
    own = {
        "mode": GuardMode(values["mode"]),
        "probe": None if probe is None else ProbeInfo(**{**probe, "per_class": tuple(probe["per_class"])}),
        "producers": tuple(producers),
    }
    return LearnerStatus(**{**values, **own})
