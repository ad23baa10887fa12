"""The records of a run: its log, measurements, best weights, checkpoints, curves and alarms. The loop calls them.

Shape suffixes: B images, T texts, C classes, N pairs of a probe, D dimension of the joint space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sightline.core.models.base import Encoder
from sightline.core.models.files import WEIGHTS_FILE
from sightline.core.models.torch_models import TorchEncoder, Towers
from sightline.errors import TrainingError
from sightline.kit.work import Notice, Progress, stop_on_interrupt
from sightline.lab.data.base import Dataset
from sightline.lab.data.pixel_cache import PixelCache
from sightline.lab.evaluation.classification import default_templates, embed_classes, rank_classes
from sightline.lab.evaluation.embedding import EmbeddedDataset, embed_dataset, embed_images
from sightline.lab.evaluation.retrieval import retrieval_metrics
from sightline.lab.training.alarms import Alarm, AlarmConfig, Alarms, StepFacts
from sightline.lab.training.batches import Batches, TrainPlan, describe_plan
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.log import RESULT_FILE, RunLog, draw_curves
from sightline.lab.training.losses import Objective
from sightline.lab.training.optimiser import WeightAverage, describe_groups, set_training_mode
from sightline.lab.training.parallel import World, all_equal, highest
from sightline.lab.training.run_folder import (
    CURVES_FILE,
    PROBE_BEST_FILE,
    PROBE_PAIRS,
    PROBE_START_FILE,
    Probe,
    RunFolder,
    Trained,
    load_checkpoint,
    read_state,
    save_checkpoint,
    write_probe,
)
from sightline.lab.training.towers import TrainedModel, has_lora, merge_lora, write_settings, write_weights

MEAN_RECALL = "mean_recall"
"""Mean of recall@1, @5 and @10 in both directions: one number that decides which weights are kept."""

_SHOWN = ("loss", "image_retrieval_recall@1", "image_retrieval_recall@10", "text_retrieval_recall@10", MEAN_RECALL)
"""The figures that a person wants to see each time; of pairs with classes the first two that there are."""
_DRAW_EVERY_S = 30.0

OnMeasure = Callable[[int, Mapping[str, float]], str | None]
"""Takes updates done and the metrics of a measurement; a reason that it returns ends the run."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The val pairs' verdict on the weights at one step."""

    metrics: dict[str, float]
    """By name, with the validator's `quality` among them."""
    probe: Probe
    losses: dict[str, float] = field(default_factory=dict)
    """`loss` and `chance_loss`; empty where the pairs have classes, whose names aren't captions."""


@dataclass(frozen=True, kw_only=True)
class Validator:
    """The val pairs with their pixels, decoded once."""

    dataset: Dataset
    pixels: PixelCache
    objective: Objective

    @property
    def quality(self) -> str:
        """Name of the metric that decides which weights are best: accuracy where the pairs have classes."""
        return MEAN_RECALL if self.dataset.class_names is None else "acc1"

    def measure(self, encoder: Encoder, *, step: int, temperature: float) -> Measurement:
        """Metrics and a probe of the weights that `encoder` has after `step` updates."""
        measure = self._measure_retrieval if self.dataset.class_names is None else self._measure_classes
        return measure(encoder, step, temperature)

    def _measure_retrieval(self, encoder: Encoder, step: int, temperature: float) -> Measurement:
        embedded = embed_dataset(encoder, self.dataset, pixels=self.pixels)
        metrics = retrieval_metrics(embedded.image_BD, embedded.text_TD, embedded.owner_T)
        recalls = [value for name, value in metrics.items() if "_recall@" in name]
        metrics[MEAN_RECALL] = float(np.mean(recalls))
        losses = self.objective.measure(embedded.image_BD, embedded.text_TD, embedded.owner_T)
        return Measurement(metrics=metrics, probe=_probe_of(embedded, step, temperature), losses=losses)

    def _measure_classes(self, encoder: Encoder, step: int, temperature: float) -> Measurement:
        assert self.dataset.class_names is not None
        embedded = embed_images(encoder, self.dataset, pixels=self.pixels)
        class_CD = embed_classes(encoder, self.dataset.class_names, default_templates())
        labels_B = np.array([pair.label for pair in self.dataset])[embedded.row_B]
        labels_N = labels_B[:PROBE_PAIRS]
        probe = Probe(
            image_ND=embedded.image_BD[:PROBE_PAIRS],
            text_ND=class_CD[labels_N],
            ids=tuple(self.dataset[int(row)].id for row in embedded.row_B[:PROBE_PAIRS]),
            texts=tuple(self.dataset.class_names[label][0] for label in labels_N),
            step=step,
            temperature=temperature,
        )
        return Measurement(metrics=rank_classes(embedded.image_BD, class_CD, labels_B).metrics(), probe=probe)


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a run works with, in one process."""

    config: TrainConfig
    world: World
    plan: TrainPlan
    model: TrainedModel
    objective: Objective
    optimiser: torch.optim.AdamW
    average: WeightAverage | None
    batches: Batches
    validator: Validator

    @property
    def towers(self) -> Towers:
        """The two towers in training."""
        return self.model.towers

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The tensors that the optimiser changes."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    @property
    def trained(self) -> Trained:
        """All that a checkpoint holds."""
        average = None if self.average is None else self.average.state_dict()
        modules = {"model": self.towers.model, "objective": self.objective}
        return Trained(modules=modules, optimiser=self.optimiser, average=average)


@dataclass(kw_only=True)
class RunState:
    """The knowledge of a run of itself, beside its tensors."""

    step: int = 0
    """Updates done."""
    best: float = -1.0
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    """Measurements since the best one."""
    took_s: float = 0.0
    """Seconds of the sessions before this one."""


class Recorder:
    """Keeps the records of one run in one process; of several ranks only the first writes and talks."""

    def __init__(self, run: Run, output: Path, *, report: Notice, progress: Progress, on_measure: OnMeasure) -> None:
        self.run, self.config, self.world, self.plan = run, run.config, run.world, run.plan
        self.output, self.report, self.progress, self.on_measure = output, report, progress, on_measure
        self.state = RunState()
        self.alarms = Alarms(AlarmConfig(warmup_steps=run.plan.warmup_steps))
        self.stopped: str | None = None
        """The reason to end before the last step; None where there is none."""
        self.interrupted = False
        self._was_asked_to_stop: Callable[[], bool] = lambda: False
        self._log: RunLog | None = None
        self._first_step = 0
        """The first update of this session."""
        self._ended_by_measure: str | None = None
        self._started_s = time.monotonic()
        self._draw_at_s = time.monotonic() + _DRAW_EVERY_S

    def restore(self, checkpoint: Path) -> None:
        """Go on after a checkpoint. Raises TrainingError where it is of other data, another model, or damaged."""
        values = read_state(checkpoint)
        for key, value in self._identity().items():
            if values.get(key) != value:
                raise TrainingError(
                    f"{checkpoint} was written with another {key}: {values.get(key)!r}, now {value!r}. The pairs "
                    "changed since; restore them, or start another run with --init."
                )
        average = load_checkpoint(checkpoint, self.run.trained)
        if self.run.average is not None and average is not None:
            self.run.average.load_state_dict(average)
        self.state = RunState(**values["state"])
        self.alarms = Alarms.from_dict(self.alarms.config, values["alarms"])
        if not all_equal(str(self.state.step), self.world):
            raise TrainingError("The ranks resume after different steps; they must share one --output folder.")
        self.report(f"going on after step {self.state.step:,} of {self.plan.total_steps:,}")

    @contextlib.contextmanager
    def recording(self, *, resumed: bool) -> Iterator[None]:
        """The session of a run: begun from the present step, with the towers measured as they start."""
        self._announce()
        self._started_s = time.monotonic()
        self._first_step = self.state.step
        with contextlib.ExitStack() as stack:
            self._was_asked_to_stop = stack.enter_context(stop_on_interrupt())
            if self.world.is_first:
                (self.output / RESULT_FILE).unlink(missing_ok=True)  # it holds no more: the run goes on
                # from the start nothing of the log stays
                resume_step = (self._first_step or -1) if resumed else None
                self._log = stack.enter_context(RunLog(self.output, resume_step=resume_step, notice=self.report))
            if self._first_step == 0:
                rate = self.config.lr * max(self.config.image_lr_factor, self.config.text_lr_factor)
                pretrained, adapters = self.config.init is not None, bool(self.config.lora_rank)
                family = self.run.model.card.family
                self._raise(self.alarms.check_start(rate, pretrained=pretrained, family=family, adapters=adapters))
                self._measure()
            yield
        self._draw()
        if self.world.is_first:
            self._write_result()

    def check(self, facts: StepFacts) -> None:
        """Raise alarms before a step is applied. Raises NonFiniteStepError where it must not be."""
        self._raise(self.alarms.check(facts))

    def after_step(self, facts: StepFacts) -> bool:
        """Log, measure and keep what is due after an update; whether the run goes on."""
        self.state.step = facts.step
        self.log(facts)
        if self.plan.measures_after(facts.step):
            self._measure()
        self.stopped = self._why_stop()
        if self.plan.keeps_after(facts.step) or self.stopped:
            self._keep()
        if self.stopped:
            self.report(f"stopped after step {facts.step:,}: {self.stopped}")
        return self.stopped is None

    def log(self, facts: StepFacts) -> None:
        """Show progress, and each `log_steps` write a row."""
        done, seconds = facts.step, self.session_s
        rate = (done - self._first_step) * self.config.batch_size / max(seconds, 1e-9)
        left_s = (self.plan.total_steps - done) * seconds / (done - self._first_step)
        note = f"loss {facts.loss:.3f}, {rate:,.0f} images/s, {left_s / 60:.1f} min left"
        self.progress(done, self.plan.total_steps, note)
        if self._log is None or (done % self.config.log_steps and done != self.plan.total_steps):
            return
        values = {
            "epoch": round(done / self.plan.steps_per_epoch, 4),
            "loss": facts.loss,
            "chance_loss": facts.chance_loss,
            "learning_rate": facts.learning_rate,
            "gradient_norm": facts.gradient_norm,
            "scale": facts.scale,
            "image_cosine": facts.image_cosine,
            "text_cosine": facts.text_cosine,
            **facts.terms,
        }
        self._log.write("train", done, values)

    @property
    def session_s(self) -> float:
        """Seconds since this session began."""
        return time.monotonic() - self._started_s

    @property
    def images_per_s(self) -> float:
        """The rate of this session."""
        took_s = self.session_s
        return (self.state.step - self._first_step) * self.config.batch_size / took_s if took_s else 0.0

    def _why_stop(self) -> str | None:
        """The reason to end before the last step, the same on all ranks: one question for all reasons."""
        patience, left = self.config.patience, self.state.step < self.plan.total_steps
        impatient = patience is not None and self.state.waited >= patience
        number = 3 if self._was_asked_to_stop() else 2 if impatient else 1 if self._ended_by_measure and left else 0
        number = highest(number, self.world)
        self.interrupted = number == 3
        return {
            3: "interrupted; go on with --resume",
            2: f"no better measurement in the last {patience}",
            1: self._ended_by_measure or "the first process ended it",
        }.get(number)

    def _measure(self) -> None:
        """Measure the (averaged) weights on the val pairs, and keep them where they are the best so far."""
        if not self.world.is_first:
            return
        model, validator, state = self.run.model, self.run.validator, self.state
        inner, average = model.towers.model, self.run.average
        with average.applied(inner) if average is not None else contextlib.nullcontext():
            inner.eval()
            encoder = TorchEncoder(model.card, model.towers, model.tokenizer, weights_hash="in training")
            measured = validator.measure(encoder, step=state.step, temperature=model.towers.temperature)
            metrics = measured.metrics
            quality = metrics[validator.quality]
            may_be_kept = state.step > 0 or self.config.init is not None  # what was never trained is no result
            if may_be_kept and quality > state.best:
                state.best, state.best_step, state.best_metrics, state.waited = quality, state.step, metrics, 0
                self._write_model(metrics)
                write_probe(measured.probe, self.output / PROBE_BEST_FILE)
            elif may_be_kept:
                state.waited += 1
        set_training_mode(inner)
        if state.step == 0:
            write_probe(measured.probe, self.output / PROBE_START_FILE)
        assert self._log is not None
        self._log.write("val", state.step, {**measured.losses, **metrics})
        if self.config.init is not None:
            self._raise(self.alarms.check_validation(state.step, name=validator.quality, value=quality))
        seen = {**measured.losses, **metrics}
        names = [name for name in _SHOWN if name in seen] or list(metrics)[:2]
        shown = ", ".join(f"{name} {seen[name]:.3f}" for name in names)
        self.report(f"step {state.step:,}: {shown}{' (best)' if state.best_step == state.step > 0 else ''}")
        if time.monotonic() >= self._draw_at_s:
            self._draw()
        if state.step:
            self._ended_by_measure = self.on_measure(state.step, metrics)

    def _write_model(self, metrics: dict[str, float]) -> None:
        """The output folder as a model folder; its weights are replaced whole."""
        model, validator = self.run.model, self.run.validator
        measured = f"{validator.dataset.name} {validator.dataset.split}, {len(validator.dataset):,} images"
        rounded = {name: round(value, 4) for name, value in metrics.items()}
        figures = {"measured_on": measured, "step": self.state.step, **rounded}
        inner = merge_lora(model.towers.model) if has_lora(model.towers.model) else model.towers.model
        write_weights(inner, self.output / WEIGHTS_FILE)
        card = dataclasses.replace(model.card, temperature=round(model.towers.temperature, 4))
        write_settings(dataclasses.replace(model, card=card), self.output, figures=figures)

    def _keep(self) -> None:
        if not self.world.is_first:
            return
        now = dataclasses.replace(self.state, took_s=self.state.took_s + self.session_s)
        state = {"state": dataclasses.asdict(now), "alarms": self.alarms.to_dict(), **self._identity()}
        save_checkpoint(self.output, self.state.step, self.run.trained, state=state, keep=self.config.keep_checkpoints)

    def _identity(self) -> dict[str, Any]:
        """The facts that must be the same for a checkpoint to fit."""
        return {"data": self.run.batches.dataset.fingerprint, "family": self.run.model.card.family}

    def _write_result(self) -> None:
        """Write the outcome of the run, over all its sessions."""
        state, took_s = self.state, self.state.took_s + self.session_s
        seen = state.step * self.config.batch_size
        values = {
            "steps": state.step,
            "total_steps": self.plan.total_steps,
            "stopped": self.stopped,
            "interrupted": self.interrupted and state.step < self.plan.total_steps,
            "best_step": state.best_step,
            "metrics": state.best_metrics,
            "images_per_s": round(seen / took_s, 1) if took_s else 0.0,
            "took_s": round(took_s, 2),
            "images_seen": seen,
        }
        RunFolder(path=self.output).write_result(values)

    def _draw(self) -> None:
        if self.world.is_first and self.state.step:
            draw_curves(self.output, self.output / CURVES_FILE, title=self.config.recipe)
        self._draw_at_s = time.monotonic() + _DRAW_EVERY_S

    def _announce(self) -> None:
        for line in describe_plan(self.config, self.plan, self.run.batches, world_size=self.world.size):
            self.report(line)
        self.report(f"parameters: {sum(p.numel() for p in self.run.parameters):,} are trained")
        if {group["lr_scale"] for group in self.run.optimiser.param_groups} != {1.0}:
            for line in describe_groups(self.run.optimiser):
                self.report(line)

    def _raise(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            self.report(f"ALARM {alarm.message}")
            if self._log is not None:
                self._log.write("alarm", alarm.step, {"alarm": alarm.kind, "message": alarm.message})


def _probe_of(embedded: EmbeddedDataset, step: int, temperature: float) -> Probe:
    """The first images, each with its first caption."""
    owners, first_T = np.unique(embedded.owner_T, return_index=True)  # images without captions have no place here
    owners, first_T = owners[:PROBE_PAIRS], first_T[:PROBE_PAIRS]
    return Probe(
        image_ND=embedded.image_BD[owners],
        text_ND=embedded.text_TD[first_T],
        ids=tuple(embedded.ids[owner] for owner in owners),
        texts=tuple(embedded.texts[place] for place in first_T),
        step=step,
        temperature=temperature,
    )
