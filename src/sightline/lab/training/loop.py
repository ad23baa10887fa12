"""The training loop, readable from top to bottom. Everything random in a step depends on seed and step alone.

Shape suffixes: B images, T texts, D joint space.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.core.models.files import WEIGHTS_FILE
from sightline.errors import TrainingError
from sightline.lab.training.adapters import has_lora, merge_lora
from sightline.lab.training.alarms import Alarm, AlarmConfig, Alarms, StepFacts, mean_pairwise_cosine
from sightline.lab.training.batches import Batch
from sightline.lab.training.checkpoint import load_checkpoint, read_state, save_checkpoint
from sightline.lab.training.config import TrainConfig
from sightline.lab.training.curves import draw_curves
from sightline.lab.training.distributed import (
    World,
    all_equal,
    any_rank,
    average_gradients,
    gather_features,
    gather_ids,
    start_world,
)
from sightline.lab.training.gradient_cache import chunk_seeds, contrastive_backward
from sightline.lab.training.interrupt import stop_on_interrupt
from sightline.lab.training.journal import Journal
from sightline.lab.training.objective import Targets
from sightline.lab.training.optimiser import describe_groups, set_learning_rate, set_training_mode
from sightline.lab.training.plan import Plan, describe_plan
from sightline.lab.training.preparation import Prepared, Report, prepare
from sightline.lab.training.probe import PROBE_BEST_FILE, PROBE_START_FILE, write_probe
from sightline.lab.training.run_folder import CURVES_FILE, RunFolder
from sightline.lab.training.schedule import learning_rate
from sightline.lab.training.towers import write_settings, write_weights

_DRAW_EVERY_S = 30.0

ShowProgress = Callable[[int, int, str], None]
"""Takes steps done, their number, and a note with loss, rate and time left."""

OnMeasure = Callable[[int, Mapping[str, float]], str | None]
"""Takes updates done and the metrics of a measurement; a reason that it returns ends the run."""


@dataclass(kw_only=True)
class RunState:
    """What a run knows of itself beside its tensors."""

    step: int = 0
    """Updates done."""
    best: float = -1.0
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    """Measurements since the best one."""
    took_s: float = 0.0
    """Seconds of the sessions before this one."""


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What came of a run."""

    output: Path
    steps: int
    total_steps: int
    stopped: str | None
    """Why it ended before its last step; None where it didn't."""
    best_step: int
    metrics: dict[str, float]
    """Those of the weights that were kept, on the val pairs."""
    images_per_s: float
    took_s: float
    interrupted: bool = False
    """Whether Ctrl-C or SIGTERM ended this session, be it at the last step."""


def train(
    config: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    report: Report = lambda line: None,
    progress: ShowProgress = lambda done, total, note: None,
    on_measure: OnMeasure = lambda step, metrics: None,
) -> TrainReport:
    """Train, measure and keep a model in the folder `output`, which is a model folder from its first measurement on.

    `resume` goes on after the newest checkpoint, to the same weights as a run that was never stopped (bit for bit on
    one CPU with the same number of threads). `on_measure` is called after each measurement but the one before the first
    update, in the first process; a reason that it gives before the last step ends the run, with a checkpoint. Under
    `torchrun` every process calls this. Raises InputError, ModelError or TrainingError for what can't be trained; what
    was kept until then stays.
    """
    with start_world() as world:
        quiet = report if world.is_first else lambda line: None
        folder = RunFolder(path=output)
        checkpoint = folder.check_resumable(config) if resume else None
        if not resume and world.is_first:
            folder.start(config)
        any_rank(False, world)  # the others read the folder that the first one makes
        with folder.undone_on_error() if not resume and world.is_first else contextlib.nullcontext():
            prepared = prepare(config, output, world, report=quiet, resumed=checkpoint is not None)
        run = Run(prepared, output, report=quiet, progress=progress, on_measure=on_measure)
        if checkpoint is not None:
            run.restore(checkpoint)
        return run.go(resumed=resume)


class Run:
    """One run in one process; of several ranks only the first writes and talks."""

    def __init__(
        self,
        prepared: Prepared,
        output: Path,
        *,
        report: Report,
        progress: ShowProgress,
        on_measure: OnMeasure = lambda step, metrics: None,
    ) -> None:
        self.prepared = prepared
        self.config, self.world = prepared.config, prepared.world
        self.output, self.report, self.progress, self.on_measure = output, report, progress, on_measure
        self.plan = Plan.make(self.config, prepared.batches.steps_per_epoch)
        self.state = RunState()
        self.alarms = Alarms(AlarmConfig(warmup_steps=self.plan.warmup_steps))
        self.journal: Journal | None = None
        self._asked_to_stop: str | None = None
        self._started_s = time.monotonic()
        self._draw_at_s = time.monotonic() + _DRAW_EVERY_S

    @property
    def towers(self) -> Any:
        """The two towers in training."""
        return self.prepared.model.towers

    # --- the loop -----------------------------------------------------------------------------------------------

    def go(self, *, resumed: bool = False) -> TrainReport:
        """From the present step to the end."""
        self._announce()
        self._started_s = time.monotonic()
        first, stopped, was_interrupted = self.state.step, None, False
        if self.world.is_first:
            RunFolder(path=self.output).forget_result()
        with contextlib.ExitStack() as stack:
            interrupted = stack.enter_context(stop_on_interrupt())
            if self.world.is_first:
                resume_step = (first or -1) if resumed else None  # from the start: nothing of the log stays
                self.journal = stack.enter_context(Journal(self.output, resume_step=resume_step, notice=self.report))
            if first == 0:
                self._raise(self._start_alarms())
                self._measure()
            for step in range(first, self.plan.total_steps):
                facts = self.update(step)
                self.state.step = step + 1
                self._log(facts, seconds=time.monotonic() - self._started_s, first=first)
                if self.plan.measures_after(step):
                    self._measure()
                was_interrupted = any_rank(interrupted(), self.world)
                stopped = self._why_stop(was_interrupted)
                if self.plan.keeps_after(step) or stopped:
                    self._keep()
                if stopped:
                    self.report(f"stopped after step {step + 1:,}: {stopped}")
                    break
        self._draw()
        took_s = time.monotonic() - self._started_s
        done = self.state.step - first
        report = TrainReport(
            output=self.output,
            steps=self.state.step,
            total_steps=self.plan.total_steps,
            stopped=stopped,
            best_step=self.state.best_step,
            metrics=dict(self.state.best_metrics),
            images_per_s=done * self.config.batch_size / took_s if took_s else 0.0,
            took_s=took_s,
            interrupted=was_interrupted,
        )
        if self.world.is_first:
            self._write_result(report)
        return report

    def update(self, step: int) -> StepFacts:
        """One optimiser step: batch, two towers, loss, gradient, alarms, weights."""
        prepared, config, world = self.prepared, self.config, self.world
        rate = self._rate(step)
        set_learning_rate(prepared.optimiser, rate)
        prepared.optimiser.zero_grad(set_to_none=True)
        prepared.objective.words_fade = 1 - step / self.plan.total_steps
        batches = prepared.batches.at(step, device=world.device)
        targets = _gather_targets(batches, world)
        spread: dict[str, float] = {}

        def loss_of_features(*features: Tensor) -> Tensor:
            gathered = [gather_features(feature, world) for feature in features]
            spread["image"] = mean_pairwise_cosine(gathered[0].detach())
            spread["text"] = mean_pairwise_cosine(gathered[1].detach())
            loss: Tensor = prepared.objective(gathered, targets)
            return loss

        seeds = chunk_seeds(len(batches), seed=config.seed, step=step, rank=world.rank)
        with _fast_attention(world):  # around backward, too, where gradient checkpointing runs layers once more
            contrastive_backward(self._encode, batches, loss_of_features, seeds=seeds)
        average_gradients(prepared.parameters, world)
        norm = nn.utils.clip_grad_norm_(prepared.parameters, config.max_gradient_norm)
        facts = StepFacts(
            step=step + 1,
            loss=prepared.objective.parts["contrast"],
            learning_rate=rate,
            gradient_norm=float(norm),
            scale=float(prepared.objective.scale.detach()),
            scale_limit=config.max_temperature,
            chance_loss=targets.chance(config.loss),
            image_cosine=spread["image"],
            text_cosine=spread["text"],
            batch_ids=lambda: [id_ for batch in batches for id_ in prepared.batches.ids_of(batch.rows)],
        )
        self._raise(self.alarms.check(facts))
        prepared.optimiser.step()
        prepared.objective.clamp()
        if prepared.average is not None:
            prepared.average.update(self.towers.model, step)
        return facts

    def _encode(self, batch: Batch) -> tuple[Tensor, ...]:
        """Unit features of one chunk, (B, D) and (T, D), and where words are predicted their logits (B, K)."""
        words_head = self.prepared.objective.words_head
        autocast = torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")
        with autocast:
            image_BD, *maps = self.towers.embed_images(batch.image_B3SS)
            text_TD = self.towers.embed_texts(batch.ids_TL)
            words = [] if words_head is None else [words_head(maps[0]).float()]
        return F.normalize(image_BD.float(), dim=-1), F.normalize(text_TD.float(), dim=-1), *words

    def _rate(self, step: int) -> float:
        return learning_rate(
            step,
            peak=self.config.lr,
            warmup_steps=self.plan.warmup_steps,
            total_steps=self.plan.total_steps,
            shape=self.config.schedule,
        )

    # --- measuring and keeping ----------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Measure the (averaged) weights on the val pairs, and keep them where they are the best so far."""
        if not self.world.is_first:
            return
        validator, state = self.prepared.validator, self.state
        model = self.towers.model
        with self._averaged():
            model.eval()
            temperature = self.towers.temperature
            measured = validator.measure(self.prepared.encoder(), step=state.step, temperature=temperature)
            metrics = measured.metrics
            quality = metrics[validator.quality]
            may_be_kept = state.step > 0 or self.config.init is not None  # what was never trained is no result
            if may_be_kept and quality > state.best:
                state.best, state.best_step, state.best_metrics, state.waited = quality, state.step, metrics, 0
                self._write_model(metrics)
                write_probe(measured.probe, self.output / PROBE_BEST_FILE)
            elif may_be_kept:
                state.waited += 1
        set_training_mode(model)
        if state.step == 0:
            write_probe(measured.probe, self.output / PROBE_START_FILE)
        assert self.journal is not None
        self.journal.write("val", state.step, metrics)
        if self.config.init is not None:
            self._raise(self.alarms.check_validation(state.step, name=validator.quality, value=quality))
        shown = ", ".join(f"{name} {value:.3f}" for name, value in _shown(metrics))
        self.report(f"step {state.step:,}: {shown}{' (best)' if state.best_step == state.step > 0 else ''}")
        if time.monotonic() >= self._draw_at_s:
            self._draw()
        if state.step:
            self._asked_to_stop = self.on_measure(state.step, metrics)

    def _write_result(self, report: TrainReport) -> None:
        """What came of the run, over all its sessions."""
        took_s, seen = self._took_s(), report.steps * self.config.batch_size
        values = {
            "steps": report.steps,
            "total_steps": report.total_steps,
            "stopped": report.stopped,
            "interrupted": report.interrupted and report.steps < report.total_steps,
            "best_step": report.best_step,
            "metrics": report.metrics,
            "images_per_s": round(seen / took_s, 1) if took_s else 0.0,
            "took_s": round(took_s, 2),
            "images_seen": seen,
        }
        RunFolder(path=self.output).write_result(values)

    def _took_s(self) -> float:
        """Seconds of all sessions until now."""
        return self.state.took_s + time.monotonic() - self._started_s

    def _draw(self) -> None:
        if self.world.is_first and self.state.step:
            draw_curves(self.output, self.output / CURVES_FILE, title=self.config.recipe)
        self._draw_at_s = time.monotonic() + _DRAW_EVERY_S

    def _write_model(self, metrics: dict[str, float]) -> None:
        """The output folder as a model folder; its weights are replaced whole."""
        model, validator = self.prepared.model, self.prepared.validator
        measured = f"{validator.dataset.name} {validator.dataset.split}, {len(validator.dataset):,} images"
        rounded = {name: round(value, 4) for name, value in metrics.items()}
        temperature = round(model.towers.temperature, 4)
        figures = {"measured_on": measured, "step": self.state.step, **rounded}
        inner = merge_lora(model.towers.model) if has_lora(model.towers.model) else model.towers.model
        write_weights(inner, self.output / WEIGHTS_FILE)
        card = dataclasses.replace(model.card, temperature=temperature)
        write_settings(dataclasses.replace(model, card=card), self.output, figures=figures)

    def _keep(self) -> None:
        if not self.world.is_first:
            return
        now = dataclasses.replace(self.state, took_s=self._took_s())
        state = {"state": dataclasses.asdict(now), "alarms": self.alarms.to_dict(), **self._identity()}
        save_checkpoint(
            self.output, self.state.step, self.prepared.trained, state=state, keep=self.config.keep_checkpoints
        )

    def restore(self, checkpoint: Path) -> None:
        """Go on after a checkpoint. Raises TrainingError where it is of other data, another model, or damaged."""
        values = read_state(checkpoint)
        for key, value in self._identity().items():
            if values.get(key) != value:
                raise TrainingError(
                    f"{checkpoint} was written with another {key}: {values.get(key)!r}, now {value!r}. The pairs "
                    "changed since; restore them, or start another run with --init."
                )
        average = load_checkpoint(checkpoint, self.prepared.trained)
        if self.prepared.average is not None and average is not None:
            self.prepared.average.load_state_dict(average)
        self.state = RunState(**values["state"])
        self.alarms = Alarms.from_dict(self.alarms.config, values["alarms"])
        if not all_equal(str(self.state.step), self.world):
            raise TrainingError("The ranks resume after different steps; they must share one --output folder.")
        self.report(f"going on after step {self.state.step:,} of {self.plan.total_steps:,}")

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to fit."""
        return {"data": self.prepared.batches.dataset.fingerprint, "family": self.prepared.model.card.family}

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        average = self.prepared.average
        with average.applied(self.towers.model) if average is not None else contextlib.nullcontext():
            yield

    # --- telling ------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        for line in describe_plan(self.config, self.plan, self.prepared.batches, world_size=self.world.size):
            self.report(line)
        groups = self.prepared.optimiser.param_groups
        self.report(f"parameters: {sum(p.numel() for p in self.prepared.parameters):,} are trained")
        if {group["lr_scale"] for group in groups} != {1.0}:
            for line in describe_groups(self.prepared.optimiser):
                self.report(line)

    def _start_alarms(self) -> list[Alarm]:
        return self.alarms.check_start(
            self.config.lr * max(self.config.image_lr_factor, self.config.text_lr_factor),
            pretrained=self.config.init is not None,
            family=self.prepared.model.card.family,
            adapters=bool(self.config.lora_rank),
        )

    def _raise(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            self.report(f"ALARM {alarm.message}")
            if self.journal is not None:
                self.journal.write("alarm", alarm.step, {"alarm": alarm.kind, "message": alarm.message})

    def _log(self, facts: StepFacts, *, seconds: float, first: int) -> None:
        done = self.state.step
        rate = (done - first) * self.config.batch_size / max(seconds, 1e-9)
        left_s = (self.plan.total_steps - done) * seconds / (done - first)
        note = f"loss {facts.loss:.3f}, {rate:,.0f} images/s, {left_s / 60:.1f} min left"
        self.progress(done, self.plan.total_steps, note)
        if self.journal is None or (done % self.config.log_steps and done != self.plan.total_steps):
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
            **{name: value for name, value in self.prepared.objective.parts.items() if name != "contrast"},
        }
        self.journal.write("train", done, values)

    def _why_stop(self, interrupted: bool) -> str | None:
        """The reason to end before the last step, the same on all ranks."""
        patience = self.config.patience
        if interrupted:
            return "interrupted; go on with --resume"
        if any_rank(patience is not None and self.state.waited >= patience, self.world):
            return f"no better measurement in the last {patience}"
        reason, left = self._asked_to_stop, self.state.step < self.plan.total_steps
        if any_rank(reason is not None and left, self.world):
            return reason or "the first process ended it"
        return None


def _fast_attention(world: World) -> contextlib.AbstractContextManager[None]:
    """On CPUs the plain formula: the fused kernel's backward pass takes four times as long on captions (torch 2.13)."""
    if world.device.type != "cpu":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context


def _gather_targets(batches: list[Batch], world: World) -> Targets:
    """What belongs together in a step, over all chunks and ranks, in the order of the gathered features."""

    def gather(parts: list[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return gather_ids(torch.cat(there), world) if there else None

    return Targets(
        group_B=gather_ids(torch.cat([batch.group_B for batch in batches]), world),
        group_T=gather_ids(torch.cat([batch.group_T for batch in batches]), world),
        set_B=gather_ids(torch.cat([batch.set_B for batch in batches]), world),
        set_T=gather_ids(torch.cat([batch.set_T for batch in batches]), world),
        caption_T=gather_ids(torch.cat([batch.caption_T for batch in batches]), world),
        teacher_BD=gather([batch.teacher_BD for batch in batches]),
        word_BK=gather([batch.word_BK for batch in batches]),
    )


def _shown(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """The figures that a person wants to see each time."""
    wanted = ("image_retrieval_recall@1", "image_retrieval_recall@10", "text_retrieval_recall@10", "mean_recall")
    shown = [(name, metrics[name]) for name in wanted if name in metrics]
    return shown or list(metrics.items())[:2]
