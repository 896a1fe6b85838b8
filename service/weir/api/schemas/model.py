"""The model, its guard and those who teach it."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from weir.api.schemas.common import Command, View
from weir.types import GuardMode, LearnerStatus, ProbeInfo, ProducerReport, Publication, Recipe, Standing


class Prediction(View):
    """What the published model says, one row per sample."""

    step: int = Field(description="the step of the model that answered")
    staleness_seconds: float = Field(description="since that model was last known to be the learner's newest")
    classes: list[int] = Field(description="the most probable class")
    probabilities: list[list[float]] = Field(description="per class, after softmax")
    logits: list[list[float]] = Field(description="per class, before softmax")


class InputView(View):
    """What the model takes."""

    shape: list[int] = Field(description="of one sample's x")
    classes: int
    low: float | list[float] | None = Field(description="smallest allowed value of x, or of each flat feature")
    high: float | list[float] | None = Field(description="largest allowed value of x, or of each flat feature")
    categorical: list[int] = Field(description="flat features that correction never moves")
    center: list[float] | None = Field(description="what the service subtracts from each flat feature of x")
    scale: list[float] | None = Field(description="what it then divides by: send x as it is")


class RecipeView(View):
    """How the model was built."""

    model: str
    options: dict[str, Any]
    inputs: InputView

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The recipe of the published model."""
        return cls(model=recipe.model, options=dict(recipe.options), inputs=InputView.model_validate(recipe.inputs))


class ModelView(View):
    """Where the learner stands."""

    step: int
    updates: int = Field(description="steps that changed the weights")
    position: int = Field(description="log position of the last entry that is wholly in the weights")
    published_step: int | None = Field(description="the step of the model that predicts; null before the first")
    recipe: RecipeView | None
    device: str
    parameters: int = Field(description="how many numbers the model has")
    alive: bool = Field(description="whether the trainer runs")
    failure: str | None = Field(description="why it stopped")
    waits_for: str | None = Field(description="what keeps it from going on, such as a full disk; it goes on by itself")
    mode: GuardMode
    armed: bool
    unarmed_because: str | None
    sample_threshold: float | None
    progressive_accuracy: float | None = Field(description="of predictions made before learning, 0 to 1")
    probe_accuracy: float | None = Field(description="on the probe set's report part, 0 to 1")
    probe_stale: bool
    drift: bool = Field(description="whether producers were seen to change together at the last step")
    breaker_open: bool = Field(description="whether the guard holds too much to go on; setting the mode closes it")
    vaccine_age: int | None = Field(description="steps since the guard learned what poison looks like; null: never")
    unvaccinated_because: str | None = Field(description="why it never did")
    vetoes: int
    rollbacks: int
    checkpoint: str | None = Field(description="the newest checkpoint")

    @classmethod
    def of(cls, status: LearnerStatus, publication: Publication | None) -> Self:
        """The learner's status and what it published."""
        names = cls.model_fields.keys() - {"published_step", "recipe"}
        return cls(
            published_step=publication.step if publication else None,
            recipe=RecipeView.of(publication.recipe) if publication else None,
            **{name: getattr(status, name) for name in names},
        )


class ProbeView(View):
    """The probe set in words: never its samples."""

    version: str = Field(description="head of its SHA-256")
    size: int
    per_class: list[int] = Field(description="samples of each class")
    created_at: float
    age_seconds: float
    source: str
    stale: bool = Field(description="whether steps of honest producers keep being vetoed: time for a new one")

    @classmethod
    def of(cls, info: ProbeInfo, *, now: float, stale: bool) -> Self:
        """The probe set at the time ``now``."""
        names = ("version", "size", "per_class", "created_at", "source")
        own = {name: getattr(info, name) for name in names}
        return cls(age_seconds=max(0.0, now - info.created_at), stale=stale, **own)


class ProducerView(View):
    """A producer's record."""

    producer: str
    seen: int
    held: int
    corrected: int
    score: float | None = Field(description="evidence of its newest samples together")
    threshold: float | None
    sequential_score: float | None = Field(description="evidence of all its samples, a CUSUM")
    sequential_threshold: float | None
    suspect_share: float | None = Field(description="estimated share of its recent samples that are an attack's")
    standing: Standing

    @classmethod
    def of(cls, report: ProducerReport) -> Self:
        """The learner's report on a producer."""
        return cls.model_validate(report)


class SetMode(Command):
    """Choose what the guard does with its evidence."""

    mode: GuardMode


class ModeView(View):
    """What the guard does with its evidence."""

    mode: GuardMode
    armed: bool
    unarmed_because: str | None = Field(default=None, description="what is missing")
