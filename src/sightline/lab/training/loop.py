"""The training loop, readable from top to bottom. Everything random in a step depends on seed and step alone.

`train` says what is loaded, built and run, `update` is one step; the `Recorder` beside them logs, measures and keeps.

Shape suffixes: B images, T texts, K frequent words, D joint space.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.core.models.convolutional import Saved
from sightline.errors import TrainingError
from sightline.kit.work import Notice, Progress
from sightline.lab.training.alarms import StepFacts, mean_pairwise_cosine
from sightline.lab.training.batches import Augmentation, Batch, Batches, Chunk, TrainPlan, share_batch
from sightline.lab.training.config import MAX_TEMPERATURE, TrainConfig
from sightline.lab.training.losses import Objective
from sightline.lab.training.optimiser import WeightAverage, choose_trained, make_optimiser, set_learning_rate
from sightline.lab.training.pairs import (
    draw_crops,
    load_pairs,
    open_pixels,
    open_teacher,
    open_train_pixels,
    texts_to_read,
)
from sightline.lab.training.parallel import (
    World,
    any_rank,
    average_gradients,
    broadcast_from_first,
    chunk_seeds,
    contrastive_backward,
    gather_features,
    refuse_false_batch_statistics,
    start_world,
)
from sightline.lab.training.recorder import OnMeasure, Recorder, Run, Validator
from sightline.lab.training.run_folder import RunFolder
from sightline.lab.training.towers import load_trained, make_towers, train_tokenizer, write_tokenizer

MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """The outcome of a run."""

    output: Path
    steps: int
    total_steps: int
    stopped: str | None
    """The reason to end before the last step; None where it didn't."""
    best_step: int
    metrics: dict[str, float]
    """Those of the weights that were kept, on the val pairs."""
    images_per_s: float
    took_s: float
    interrupted: bool = False
    """True where Ctrl-C or SIGTERM ended this session, be it at the last step."""


def train(
    config: TrainConfig,
    output: Path,
    *,
    resume: bool = False,
    report: Notice = lambda line: None,
    progress: Progress = lambda done, total, note: None,
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
        report = report if world.is_first else lambda line: None
        folder = RunFolder(path=output)
        checkpoint = folder.check_resumable(config) if resume else None
        begins = not resume and world.is_first
        if begins:
            folder.start(config)
        any_rank(False, world)  # the others read the folder that the first one makes
        with folder.undone_on_error() if begins else contextlib.nullcontext():
            run = prepare(config, output, world, report=report, resumed=checkpoint is not None)
        recorder = Recorder(run, output, report=report, progress=progress, on_measure=on_measure)
        if checkpoint is not None:
            recorder.restore(checkpoint)

        with recorder.recording(resumed=resume):
            for step in range(recorder.state.step, run.plan.total_steps):
                facts = update(run, step, check=recorder.check)
                if not recorder.after_step(facts):
                    break

        return TrainReport(
            output=output,
            steps=recorder.state.step,
            total_steps=run.plan.total_steps,
            stopped=recorder.stopped,
            best_step=recorder.state.best_step,
            metrics=dict(recorder.state.best_metrics),
            images_per_s=recorder.images_per_s,
            took_s=recorder.session_s,
            interrupted=recorder.interrupted,
        )


def prepare(config: TrainConfig, output: Path, world: World, *, report: Notice, resumed: bool) -> Run:
    """A run before its first step, all of it loaded or made.

    Raises InputError, ModelError or TrainingError for what can't be trained.
    """
    train_pairs, val_pairs = load_pairs(config)

    if config.init is None and not resumed and world.is_first:
        texts = texts_to_read(config, train_pairs)
        write_tokenizer(train_tokenizer(texts, vocab_size=config.towers.vocab_size), output)
    any_rank(False, world)  # the others read the tokenizer that the first one writes
    model = load_trained(config.init) if config.init is not None else make_towers(config, output)
    choose_trained(model.towers.model, config)
    _, n_chunks = share_batch(config, world)
    refuse_false_batch_statistics(model.towers.model, world_size=world.size, n_chunks=n_chunks)

    image = model.card.preprocessing
    if config.train_px not in (None, image.size_px) and not isinstance(model.towers.model, Saved):
        raise TrainingError(f"A ViT takes its own {image.size_px} pixels only; train_px is for convolutional towers.")
    pixels = open_train_pixels(config, train_pairs, replace(image, size_px=config.cache_px or image.size_px), report)
    val_pixels = open_pixels(val_pairs, image, report)
    augmentation = Augmentation(crop_min=config.crop_min, flip=config.flip, colour_jitter=config.colour_jitter)
    crops = draw_crops(config, train_pairs, augmentation)
    teacher_ND = open_teacher(config, train_pairs, pixels, crops, report)
    batches = Batches(
        config,
        train_pairs,
        pixels,
        model.tokenizer,
        preprocessing=image,
        augmentation=augmentation,
        world=world,
        crops=crops,
        teacher_ND=teacher_ND,
    )

    model.towers.to(world.device)
    for layer in model.towers.modules():
        if isinstance(layer, nn.Conv2d):  # faster on CPUs and GPUs where the channels lie side by side
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    objective = Objective(
        config,
        model.towers,
        teacher_dim=None if teacher_ND is None else teacher_ND.shape[1],
        words_count=0 if batches.words is None else batches.words.count,
    ).to(world.device)
    trained = nn.ModuleDict({"model": model.towers.model, "objective": objective})
    broadcast_from_first(trained, world)
    return Run(
        config=config,
        world=world,
        plan=TrainPlan.make(config, batches.steps_per_epoch),
        model=model,
        objective=objective,
        optimiser=make_optimiser(trained, config),
        average=WeightAverage(model.towers.model, config.average_decay) if config.average_decay else None,
        batches=batches,
        validator=Validator(dataset=val_pairs, pixels=val_pixels, objective=objective),
    )


def update(run: Run, step: int, *, check: Callable[[StepFacts], None] = lambda facts: None) -> StepFacts:
    """One update of the weights; `check` sees what the step showed before it is applied, and may refuse it."""
    config, world, towers, objective = run.config, run.world, run.towers, run.objective
    batch = run.batches.at(step)
    objective.words_fade = 1 - step / run.plan.total_steps
    vector_sums: list[Tensor] = []

    def encode(chunk: Chunk) -> tuple[Tensor, ...]:
        """Unit features of one chunk, (B, D) and (T, D), and where words are predicted their logits (B, K)."""
        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            image_BD, *maps = towers.embed_images(chunk.image_B3SS)
            text_TD = towers.embed_texts(chunk.ids_TL)
            words = [] if objective.words_head is None else [objective.words_head(maps[0]).float()]
        return F.normalize(image_BD.float(), dim=-1), F.normalize(text_TD.float(), dim=-1), *words

    def loss_of_features(*own: Tensor) -> Tensor:
        """The loss of the whole batch, from this rank's features of all chunks."""
        features = [gather_features(rows, world) for rows in own]
        vector_sums[:] = [rows.detach().sum(0) for rows in features[:2]]
        loss: Tensor = objective(features, batch.targets)
        return loss

    # Gradients: of one chunk as usual; several are encoded twice, and only one at a time has its activations in memory.
    run.optimiser.zero_grad(set_to_none=True)
    seeds = chunk_seeds(len(batch.chunks), seed=config.seed, step=step, rank=world.rank)
    with _fast_attention(world):  # around backward, too, where gradient checkpointing runs layers once more
        contrastive_backward(encode, batch.chunks, loss_of_features, seeds=seeds)
    average_gradients(run.parameters, world)
    norm = nn.utils.clip_grad_norm_(run.parameters, MAX_GRADIENT_NORM)

    rate = run.plan.learning_rate(step, peak=config.lr)
    facts = _read_facts(run, batch, step=step, rate=rate, shown=[norm, *(sum_D @ sum_D for sum_D in vector_sums)])
    check(facts)
    set_learning_rate(run.optimiser, rate)
    run.optimiser.step()
    objective.clamp()
    if run.average is not None:
        run.average.update(towers.model, step)
    return facts


def _read_facts(run: Run, batch: Batch, *, step: int, rate: float, shown: list[Tensor]) -> StepFacts:
    """The figures of a step, read from the device at once, since each read waits until the device is done."""
    objective, targets = run.objective, batch.targets
    values = torch.stack([objective.scale.detach(), *shown, *objective.terms.values()])
    scale, gradient_norm, image_square, text_square, *terms = values.tolist()
    named = dict(zip(objective.terms, terms, strict=True))
    return StepFacts(
        step=step + 1,
        loss=named.pop("contrast"),
        learning_rate=rate,
        gradient_norm=gradient_norm,
        scale=scale,
        scale_limit=MAX_TEMPERATURE,
        chance_loss=targets.chance(run.config.loss),
        image_cosine=mean_pairwise_cosine(image_square, len(targets.group_B)),
        text_cosine=mean_pairwise_cosine(text_square, len(targets.group_T)),
        terms=named,
        batch_ids=lambda: run.batches.ids_of(batch.rows),
    )


def _fast_attention(world: World) -> contextlib.AbstractContextManager[None]:
    """On CPUs the plain formula: the fused kernel's backward pass takes four times as long on captions (torch 2.13)."""
    if world.device.type != "cpu":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return context
