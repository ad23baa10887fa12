"""Alarms of a run, raised while it goes wrong: each names the cause and what to do. Pure Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from sightline.errors import TrainingError

AlarmKind = Literal[
    "chance", "above_chance", "collapsed_images", "collapsed_texts", "temperature", "gradient", "learning_rate", "drop"
]

IDS_SHOWN = 32
HARMFUL_VIT_LEARNING_RATE = 1e-4
VIT_FAMILIES = ("clip", "siglip")


@dataclass(frozen=True, kw_only=True)
class AlarmConfig:
    """The thresholds of the alarms. The defaults stay silent on the recipes' healthy runs."""

    warmup_steps: int = 0
    """Before that many steps, standing at chance and alike embeddings are what a random start looks like."""
    chance_window_steps: int = 100
    chance_margin: float = 0.02
    """A mean loss within this fraction of chance, or above it, is stuck."""
    above_window_steps: int = 20
    above_factor: float = 1.5
    collapse_cosine: float = 0.99
    collapse_steps: int = 20
    temperature_steps: int = 100
    spike_factor: float = 10.0
    spike_history_steps: int = 50
    drop_fraction: float = 0.1
    """A validation metric this fraction below its value before training."""


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """The figures of one step, after its backward pass and before it is applied."""

    step: int
    """Number of the update, counted from 1 as in the log, whose rows are cut by it on resume."""
    loss: float
    """The contrastive part, without distillation, so that it can be held against chance."""
    learning_rate: float
    gradient_norm: float
    scale: float
    """exp(logit scale), the inverse of the softmax's temperature."""
    scale_limit: float | None = None
    """The most that `scale` is clamped to, where it is."""
    chance_loss: float | None = None
    """The loss of a model that knows nothing: ln(batch) for the softmax loss; None where it isn't known."""
    image_cosine: float | None = None
    """`mean_pairwise_cosine` of the batch's image vectors."""
    text_cosine: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    """The other terms of the loss, by the names that they have in the log."""
    batch_ids: Callable[[], Sequence[str]] = lambda: ()
    """Called only where the batch is to be named."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One thing that is wrong since `step`: `message` says what, why and what to do."""

    kind: AlarmKind
    step: int
    message: str


class NonFiniteStepError(TrainingError):
    """The loss or the gradient of a step isn't a number; `step` and the ids of its whole batch."""

    def __init__(self, message: str, *, step: int, batch_ids: Sequence[str]) -> None:
        super().__init__(message)
        self.step = step
        self.batch_ids = tuple(batch_ids)


@dataclass(kw_only=True)
class _Memory:
    """All that alarms remember between steps, as a checkpoint keeps it."""

    active: list[str] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)
    ratios: list[float] = field(default_factory=list)
    """Loss by its chance, of the last steps."""
    norms: list[float] = field(default_factory=list)
    last_spike_step: int | None = None
    scale_was_free: bool = False
    starts: dict[str, float] = field(default_factory=dict)
    """First value of each validation metric."""


class Alarms:
    """Watches a run. An alarm is raised once, and again only after its cause had gone."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self._memory = _Memory()

    def check(self, facts: StepFacts) -> list[Alarm]:
        """The alarms that this step sets off. Call it before the step is applied.

        Raises NonFiniteStepError where the loss or the gradient is NaN or infinite; the step must not be applied.
        """
        _refuse_non_finite(facts)
        if facts.chance_loss:
            _remember(self._memory.ratios, facts.loss / facts.chance_loss, most=self.config.chance_window_steps)
        found = [
            self._check_chance(facts),
            self._check_above_chance(facts),
            self._check_collapse("collapsed_images", facts.step, facts.image_cosine),
            self._check_collapse("collapsed_texts", facts.step, facts.text_cosine),
            self._check_temperature(facts),
            self._check_gradient(facts),
        ]
        return [alarm for alarm in found if alarm]

    def check_start(self, peak: float, *, pretrained: bool, family: str, adapters: bool = False) -> list[Alarm]:
        """The alarm for a learning rate known to destroy what a pretrained tower knows.

        `peak` is the highest rate that a tower's own weights get. Adapters (LoRA) start as nothing and bear more;
        towers from a random start need more. The bound: OpenAI trained B/32 from scratch at 5e-4, and fine-tunings at
        1e-4 lose what was learned within an epoch (open_clip#1093: image retrieval recall@10 from 43.2% to 17.0%, there
        with Lion, whose steps are larger than AdamW's).
        """
        on = pretrained and not adapters and family in VIT_FAMILIES and peak >= HARMFUL_VIT_LEARNING_RATE
        message = (
            f"A learning rate of {peak:g} is known to destroy pretrained ViT towers within an epoch (open_clip#1093). "
            "Take 1e-5 (1e-6 to 3e-5 is usual), with layer-wise learning rates, LoRA or a frozen image tower where "
            "data is scarce."
        )
        alarm = self._edge("learning_rate", 0, on=on, message=message)
        return [alarm] if alarm else []

    def check_validation(self, step: int, *, name: str, value: float) -> list[Alarm]:
        """The alarm for a metric (higher is better) that fell below its first value, that before fine-tuning."""
        start = self._memory.starts.setdefault(name, value)
        on = value < start * (1.0 - self.config.drop_fraction)
        message = (
            f"{name} is {value:.4f}, before training it was {start:.4f}: the run destroys what the model knew. Usually "
            "the learning rate is too high for pretrained towers, or the data too little. Stop; lower the learning "
            "rate (1e-5 or less), use layer-wise learning rates, LoRA or a frozen image tower."
        )
        alarm = self._edge("drop", step, on=on, message=message, key=f"drop {name}")
        return [alarm] if alarm else []

    def to_dict(self) -> dict[str, Any]:
        """All that is remembered, as JSON takes it, for a checkpoint."""
        return asdict(self._memory)

    @classmethod
    def from_dict(cls, config: AlarmConfig, values: Mapping[str, Any]) -> Self:
        """Alarms that go on where `to_dict` left off. Raises TrainingError for a state of another shape."""
        alarms = cls(config)
        if differing := sorted(set(values) ^ set(alarms.to_dict())):
            raise TrainingError(f"The checkpoint's alarms lack or have too many of: {', '.join(differing)}.")
        alarms._memory = _Memory(**values)
        return alarms

    def _edge(self, kind: AlarmKind, step: int, *, on: bool, message: str, key: str | None = None) -> Alarm | None:
        """The alarm where its cause is there now and wasn't before."""
        key = key or kind
        active = self._memory.active
        if on == (key in active):
            return None
        if not on:
            active.remove(key)
            return None
        active.append(key)
        place = "" if kind == "learning_rate" else f"Step {step}: "
        return Alarm(kind=kind, step=step, message=place + message)

    def _streak(self, key: str, *, on: bool) -> int:
        """The number of steps in a row, this one included, that something has held."""
        streaks = self._memory.streaks
        streaks[key] = streaks.get(key, 0) + 1 if on else 0
        return streaks[key]

    def _check_chance(self, facts: StepFacts) -> Alarm | None:
        # Only steps after the warm-up count: before it nothing can have been learned.
        waited = facts.step >= self.config.warmup_steps + self.config.chance_window_steps
        ratios = self._memory.ratios
        full = len(ratios) == self.config.chance_window_steps
        mean = statistics.fmean(ratios) if ratios else 0.0
        stuck = 1.0 - self.config.chance_margin <= mean < self.config.above_factor
        message = (
            f"the loss has stood at chance for {self.config.chance_window_steps} steps "
            f"(mean {mean * (facts.chance_loss or 0.0):.3f}; chance, ln(batch) for the softmax loss, is "
            f"{facts.chance_loss or 0.0:.3f}): nothing is learned. Check that captions belong to their images "
            "(`sightline data check`), that something is trained, and the learning rate: too high stops learning as "
            f"surely as too low (now {facts.learning_rate:g})."
        )
        return self._edge("chance", facts.step, on=waited and full and stuck, message=message)

    def _check_above_chance(self, facts: StepFacts) -> Alarm | None:
        recent = self._memory.ratios[-self.config.above_window_steps :]
        mean = statistics.fmean(recent) if recent else 0.0
        on = len(recent) == self.config.above_window_steps and mean > self.config.above_factor
        message = (
            f"the loss is {mean:.1f} times that of chance over {len(recent)} steps: the model is surely wrong, which "
            f"is worse than knowing nothing. It diverged, or the logit scale ({facts.scale:.1f}) is too high for these "
            "weights. Lower the learning rate, lengthen the warm-up or clip the gradient; go back to a checkpoint."
        )
        return self._edge("above_chance", facts.step, on=on, message=message)

    def _check_collapse(
        self, kind: Literal["collapsed_images", "collapsed_texts"], step: int, cosine: float | None
    ) -> Alarm | None:
        if cosine is None:
            return None
        alike = cosine > self.config.collapse_cosine and step > self.config.warmup_steps
        streak = self._streak(kind, on=alike)
        what = kind.removeprefix("collapsed_")
        message = (
            f"all {what} of a batch get nearly the same vector (mean pairwise cosine {cosine:.4f} for {streak} "
            f"steps): the {what.removesuffix('s')} tower collapsed. Lower its learning rate, lengthen the warm-up, "
            f"and check that its {what} differ at all (a cache of blank pictures, a tokenizer of another model)."
        )
        return self._edge(kind, step, on=streak >= self.config.collapse_steps, message=message)

    def _check_temperature(self, facts: StepFacts) -> Alarm | None:
        if facts.scale_limit is None:
            return None
        # 1e-3 for the rounding of exp(log(limit)), in bf16 too coarse for less.
        clamped = facts.scale >= facts.scale_limit * (1.0 - 1e-3)
        self._memory.scale_was_free |= not clamped
        # OpenAI's weights start at their limit of 100: that is how they were published, and nothing is wrong.
        streak = self._streak("temperature", on=clamped and self._memory.scale_was_free)
        message = (
            f"the logit scale has been at its limit of {facts.scale_limit:g} for {streak} steps: the softmax can't get "
            "any sharper. The model may overfit or captions be duplicates (lower the learning rate of the scale, stop "
            "earlier, more data); near the end of a long run it is harmless."
        )
        return self._edge("temperature", facts.step, on=streak >= self.config.temperature_steps, message=message)

    def _check_gradient(self, facts: StepFacts) -> Alarm | None:
        norms, history = self._memory.norms, self.config.spike_history_steps
        usual = statistics.median(norms) if len(norms) == history else math.inf
        if facts.gradient_norm > self.config.spike_factor * usual:
            self._memory.last_spike_step = facts.step
        _remember(norms, facts.gradient_norm, most=history)
        spiked = self._memory.last_spike_step
        # Spikes come in bursts: one alarm for all that lie less than the history apart.
        on = spiked is not None and facts.step - spiked < history
        message = (
            f"the gradient's norm is {facts.gradient_norm:.3g}, its median over the last {len(norms)} steps "
            f"{usual:.3g}. One such batch does little under gradient clipping; if it comes back, lower the learning "
            f"rate (now {facts.learning_rate:g}). The batch: {_name_batch(facts.batch_ids())}"
            if on and spiked == facts.step
            else ""
        )
        return self._edge("gradient", facts.step, on=on, message=message)


def mean_pairwise_cosine(squared_sum: float, count: int) -> float:
    """The mean cosine of different ones of `count` unit vectors; near 1 they have collapsed, 0 for a single one.

    `squared_sum` is |sum of the vectors|^2: `(|sum|^2 - B) / (B * (B - 1))` needs no (B, B) matrix.
    """
    return (squared_sum - count) / (count * (count - 1)) if count > 1 else 0.0


def _remember(numbers: list[float], number: float, *, most: int) -> None:
    numbers.append(number)
    del numbers[:-most]


def _refuse_non_finite(facts: StepFacts) -> None:
    broken = [
        f"{what} is {value}"
        for what, value in (("the loss", facts.loss), ("the gradient's norm", facts.gradient_norm))
        if not math.isfinite(value)
    ]
    if not broken:
        return
    ids = tuple(facts.batch_ids())
    raise NonFiniteStepError(
        f"Step {facts.step}: {' and '.join(broken)} (learning rate {facts.learning_rate:g}, logit scale "
        f"{facts.scale:g}). The step wasn't applied. Resume from the last checkpoint with a lower learning rate, a "
        "longer warm-up or gradient clipping; where it comes back at the same batch, look at its pictures and "
        f"captions: {_name_batch(ids)}",
        step=facts.step,
        batch_ids=ids,
    )


def _name_batch(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    return (", ".join(ids[:IDS_SHOWN]) or "(no ids)") + more
