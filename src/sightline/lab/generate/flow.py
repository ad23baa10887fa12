"""A text-to-image model that trains on a laptop: a rectified flow on rendered scenes, steered by a CLIP's text tower.

A straight line leads from noise x_0 to an image x_1: x_t = (1 - t) x_0 + t x_1, with the velocity x_1 - x_0. A network
that is shown x_t, t and the words learns that velocity by least squares, hence the mean of all lines through x_t
(Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003). To make an image, start at noise and follow
the velocity to t = 1. Some images are learned without words; what words change is then the difference between two
velocities, and guidance g goes g times as far that way (Ho and Salimans 2022, arXiv:2207.12598).

Shape suffixes: B images, S pixels a side, L tokens, E width of the text tower, C channels, H W cells of a map, N all of
its cells.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.core.models.convolutional import OwnClip, TextTower, TransformerLayer
from sightline.core.models.files import WEIGHTS_FILE
from sightline.errors import InputError, ModelError, TrainingError
from sightline.kit import files
from sightline.kit.config import expand
from sightline.kit.work import Notice, Progress, stop_on_interrupt
from sightline.lab.data.base import Split
from sightline.lab.data.scenes.grammar import Chance, draw_scene
from sightline.lab.data.scenes.render import render_scene
from sightline.lab.data.scenes.sentences import compose_captions
from sightline.lab.generate.config import FLOW_FILE, DiffusionConfig, FlowConfig, load_prompts, read_flow
from sightline.lab.generate.guided import load_guide
from sightline.lab.generate.run import claim_folder
from sightline.lab.training.loop import TrainReport
from sightline.lab.training.optimiser import WeightAverage
from sightline.lab.training.run_folder import Trained, load_checkpoint, newest_checkpoint, read_state, save_checkpoint

LOG_FILE, SAMPLES_DIR = "log.jsonl", "samples"
_SPREAD = 64.0
"""An image's values are (pixel - 127.5) / 64, with a standard deviation near 1, as the noise has."""
_EARLY = -0.6
"""Centre of the logit of t in training: below 0, since it is near the noise that it's decided what lies where."""
_WARMUP_STEPS = 200
_SHOWN = 16
"""Val prompts that samples are made of while training goes on."""


class ConditionedBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, scaled and shifted by what is known (FiLM, Perez et al. 2018)."""

    def __init__(self, width_in: int, width_out: int, known_width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width_in), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width_out), nn.Conv2d(width_out, width_out, 3, padding=1)
        self.film = nn.Linear(known_width, 2 * width_out)
        self.shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # each block starts as its shortcut alone

    def forward(self, x_BCHW: Tensor, known_BE: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        scale_BC11, shift_BC11 = self.film(known_BE)[..., None, None].chunk(2, dim=1)
        y_BCHW = self.norm2(self.conv1(F.silu(self.norm1(x_BCHW))))
        y_BCHW = self.conv2(F.silu(y_BCHW * (1 + scale_BC11) + shift_BC11))
        mixed_BCHW: Tensor = y_BCHW + self.shortcut(x_BCHW)
        return mixed_BCHW


class VelocityNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) over patches; its coarse cells look at each other and at the words."""

    def __init__(self, config: FlowConfig, *, text_width: int) -> None:
        super().__init__()
        self.patch_px = config.patch_px
        width, deep, side = config.width, 2 * config.width, config.size_px // config.patch_px
        channels = 3 * config.patch_px**2
        self.time = nn.Sequential(nn.Linear(64, deep), nn.SiLU(), nn.Linear(deep, deep))
        self.words = nn.Linear(text_width, deep)
        self.read = nn.Conv2d(channels, width, 3, padding=1)
        self.down = ConditionedBlock(width, width, deep)
        self.shrink = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.places = nn.Parameter(0.02 * torch.randn(deep, side // 2, side // 2))
        self.blocks = nn.ModuleList(ConditionedBlock(deep, deep, deep) for _ in range(config.depth))
        self.looks = nn.ModuleList(TransformerLayer(deep, 4, 0.0, memory_width=text_width) for _ in range(config.depth))
        self.grow = nn.Conv2d(deep, width, 3, padding=1)
        self.up = nn.ModuleList([ConditionedBlock(2 * width, width, deep), ConditionedBlock(width, width, deep)])
        self.norm, self.write = nn.GroupNorm(8, width), nn.Conv2d(width, channels, 3, padding=1)
        for weights in self.write.parameters():
            nn.init.zeros_(weights)

    def forward(self, x_B3SS: Tensor, t_B: Tensor, words_BLE: Tensor) -> Tensor:
        """Images on their way, their times in [0, 1], the states of words (0: no words) -> velocities (B, 3, S, S)."""
        known_BE = F.silu(self.time(_waves(t_B)) + self.words(words_BLE.mean(dim=1)))
        fine_BCHW = self.down(self.read(F.pixel_unshuffle(x_B3SS, self.patch_px)), known_BE)
        x_BCHW = self.shrink(fine_BCHW) + self.places
        for block, look in zip(self.blocks, self.looks, strict=True):
            x_BCHW = block(x_BCHW, known_BE)
            cell_BNC = look(x_BCHW.flatten(2).transpose(1, 2), words_BLE)
            x_BCHW = cell_BNC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:])
        x_BCHW = torch.cat([self.grow(F.interpolate(x_BCHW, scale_factor=2.0)), fine_BCHW], dim=1)
        for block in self.up:
            x_BCHW = block(x_BCHW, known_BE)
        change_B3SS = F.pixel_shuffle(self.write(F.silu(self.norm(x_BCHW))), self.patch_px)
        # The network corrects the best guess that only scales x_t (as in Karras et al. 2022, arXiv:2206.00364).
        t_B111 = t_B[:, None, None, None]
        return change_B3SS + x_B3SS * (2 * t_B111 - 1) / (t_B111**2 + (1 - t_B111) ** 2)


def _waves(t_B: Tensor) -> Tensor:
    """Sines and cosines of the times (B, 64), at frequencies from 1 to 1,000."""
    angle_BF = t_B[:, None] * torch.logspace(0, 3, 32, device=t_B.device)
    return torch.cat([angle_BF.sin(), angle_BF.cos()], dim=1)


class Reader:
    """A CLIP's text tower, which isn't trained here: captions -> the states of their tokens."""

    def __init__(self, name: str, *, weights_hash: str | None = None, download: bool = False) -> None:
        """Load the model. Raises ModelError where it has no PyTorch weights here, or others than those of a hash."""
        self.encoder = load_guide(name, download=download)
        if weights_hash not in (None, self.encoder.identity.weights_hash):
            raise ModelError(f"{name} has other weights than the flow learned with. Put those back, or train it anew.")
        model = self.encoder.towers.requires_grad_(False).model
        tower = model.text_tower if isinstance(model, OwnClip) else None
        if not isinstance(tower, TextTower | None):
            raise ModelError(
                f"{name} is of the starter's kind, whose text tower can't be asked. Use a scenes-scratch run."
            )
        self._states = tower.states if tower else lambda ids_BL: model.text_model(ids_BL).last_hidden_state
        self.width = self.read([""]).shape[-1]

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, L, E), zero beyond a text's tokens; L is the model's, so that no text's length matters to another."""
        tokenizer = self.encoder.tokenizer
        ids_BL = torch.full((len(texts), tokenizer.spec.context_length), tokenizer.spec.pad_id)
        real_BL1 = torch.zeros(*ids_BL.shape, 1)
        for row, ids in enumerate(map(tokenizer.truncate, tokenizer.ids_of(texts))):
            ids_BL[row, : len(ids)], real_BL1[row, : len(ids)] = torch.tensor(ids), 1.0
        state_BLE: Tensor = self._states(ids_BL.to(self.encoder.device))
        return state_BLE.float().cpu() * real_BL1


class Scenes:
    """Scenes on plain grounds, of which captions say nothing; each is rendered once, when it is first drawn."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config
        self._at = cache(self._render)

    def draw(self, chance: torch.Generator, split: Split = "train") -> tuple[Tensor, list[str]]:
        """A batch of images (B, 3, S, S) and a caption of each."""
        count = self.config.batch_size
        numbers_2B = torch.stack([torch.randint(n, (count,), generator=chance) for n in (self.config.n_scenes, 5)])
        drawn = [(self._at(split, number), pick) for number, pick in numbers_2B.T.tolist()]
        pixels_BSS3 = torch.from_numpy(np.stack([rgb for (rgb, _), _ in drawn]))
        image_B3SS = (pixels_BSS3.permute(0, 3, 1, 2).float() - 127.5) / _SPREAD
        return image_B3SS, [captions[pick % len(captions)] for (_, captions), pick in drawn]

    def _render(self, split: Split, number: int) -> tuple[NDArray[np.uint8], list[str]]:
        scene = dataclasses.replace(draw_scene(0, split, number), noise_seed=None)
        captions = compose_captions(scene, Chance("flow", split, number)) or []  # never none where all are accepted
        return render_scene(scene, self.config.size_px), [caption.text for caption in captions]


def flow_loss(
    net: nn.Module, scenes: Scenes, reader: Reader, *, chance: torch.Generator, split: Split = "train"
) -> Tensor:
    """The mean squared error of the velocity on a batch; all that is random comes from `chance`.

    Times are logit-normal (Esser et al. 2024, arXiv:2403.03206).
    """
    image_B3SS, captions = scenes.draw(chance, split)
    noise_B3SS = torch.randn(image_B3SS.shape, generator=chance)
    t_B = torch.sigmoid(torch.randn(len(captions), generator=chance) + _EARLY)
    worded_B = torch.rand(len(captions), generator=chance) >= scenes.config.wordless
    words_BLE = reader.read(captions) * worded_B[:, None, None]
    x_B3SS = torch.lerp(noise_B3SS, image_B3SS, t_B[:, None, None, None])
    return F.mse_loss(net(x_B3SS, t_B, words_BLE), image_B3SS - noise_B3SS)


def train_flow(
    config: FlowConfig,
    output: Path,
    *,
    resume: bool = False,
    report: Notice = lambda line: None,
    progress: Progress = lambda done, total, note: None,
) -> TrainReport:
    """Train a flow and keep its averaged weights in `output`, with a checkpoint, a log and samples on the way.

    `resume` goes on after the checkpoint, to the same weights as a run that was never stopped: all chance of a step
    depends on seed and step alone. Raises InputError, ModelError or TrainingError for what can't be trained.
    """
    started, scenes = time.perf_counter(), Scenes(config)
    reader = Reader(config.init, weights_hash=read_flow(output)[1] if resume else None)
    torch.manual_seed(config.seed)
    net = VelocityNet(config, text_width=reader.width)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=0.0, betas=(0.9, 0.99))
    average = WeightAverage(net, config.average_decay)
    if not resume:
        claim_folder(output)
    settings = {"settings": dataclasses.asdict(config), "weights_hash": reader.encoder.identity.weights_hash}
    files.write_json(output / FLOW_FILE, settings, indent=2)
    step = first = _restore(output, net, optimiser, average)
    report(f"{sum(weights.numel() for weights in net.parameters()):,} weights; words are read by {config.init}")
    losses: list[float] = []
    kept: dict[str, float] = {}
    with stop_on_interrupt() as interrupted:
        for step in range(first + 1, config.steps + 1):
            loss = flow_loss(net, scenes, reader, chance=torch.Generator().manual_seed(config.seed << 32 | step))
            _update(net, optimiser, loss, rate=config.lr * min(1.0, step / _WARMUP_STEPS))
            average.update(net, step)
            losses.append(float(loss.detach()))
            progress(step, config.steps, f"loss {np.mean(losses[-50:]):.3f}")
            if interrupted() or step % config.keep_steps == 0 or step == config.steps:
                save_checkpoint(output, step, _all_of(net, optimiser, average), state={}, keep=1)
                kept = {"loss": float(np.mean(losses)), "took_s": time.perf_counter() - started}
                kept |= _show(output, step, average, scenes, reader)
                with (output / LOG_FILE).open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **kept}) + "\n")
                losses.clear()
            if interrupted():
                break
    took_s = time.perf_counter() - started
    return TrainReport(
        output=output,
        steps=step,
        total_steps=config.steps,
        stopped="interrupted; go on with --resume" if step < config.steps else None,
        best_step=step,
        metrics=kept,
        images_per_s=(step - first) * config.batch_size / took_s,
        took_s=took_s,
        interrupted=step < config.steps,
    )


def _update(net: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, *, rate: float) -> None:
    if not torch.isfinite(loss):
        raise TrainingError("The loss isn't finite any more: the weights are lost. Train anew, at a lower lr.")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


def _all_of(net: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage) -> Trained:
    return Trained(modules={"net": net}, optimiser=optimiser, average=average.state_dict())


def _restore(output: Path, net: nn.Module, optimiser: torch.optim.Optimizer, average: WeightAverage) -> int:
    """Put the state of the checkpoint back; its step, 0 where there is none."""
    checkpoint = newest_checkpoint(output)
    if checkpoint is None:
        return 0
    average.load_state_dict(load_checkpoint(checkpoint, _all_of(net, optimiser, average)) or {})
    return int(read_state(checkpoint)["step"])


def _show(output: Path, step: int, average: WeightAverage, scenes: Scenes, reader: Reader) -> dict[str, float]:
    """Write the averaged weights and samples of them; the loss on val scenes."""
    with files.replacing(output / WEIGHTS_FILE) as partial:
        save_file(average.state_dict(), partial)
        files.share_as_others(partial)
    images = FlowImages.load(output, reader=reader)
    with torch.no_grad():
        loss = flow_loss(images.net, scenes, reader, chance=torch.Generator().manual_seed(0), split="val")
    prompts = load_prompts(f"scenes:{_SHOWN}")
    *_, pixels_BSS3 = images.follow(prompts, range(_SHOWN), DiffusionConfig(steps=10, guidance=3.0))
    (output / SAMPLES_DIR).mkdir(exist_ok=True)
    rows = [np.hstack(list(row)) for row in np.split(pixels_BSS3, 2)]
    Image.fromarray(np.vstack(rows)).save(output / SAMPLES_DIR / f"step-{step:06}.png")
    return {"val_loss": float(loss)}


class FlowImages:
    """A trained flow: words and seeds -> images. `draw` makes one as a pipeline does, see `diffuse.TextToImage`."""

    class_name = "RectifiedFlow"

    def __init__(self, net: VelocityNet, reader: Reader, config: FlowConfig) -> None:
        self.net, self.reader, self.config = net.eval(), reader, config
        self.readers = (reader.encoder,)

    @classmethod
    def load(cls, folder: str | Path, *, reader: Reader | None = None, download: bool = False) -> FlowImages:
        """From the folder of `train_flow`. Raises ModelError where it holds no flow, or its CLIP isn't what it was."""
        config, weights_hash = read_flow(folder)
        reader = reader or Reader(config.init, weights_hash=weights_hash, download=download)
        net = VelocityNet(config, text_width=reader.width)
        try:
            net.load_state_dict(load_file(expand(str(folder)) / WEIGHTS_FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"The flow's weights in {folder} can't be read: {error}. Train it anew.") from error
        return cls(net, reader, config)

    def follow(
        self, prompts: Sequence[str], seeds: Sequence[int], config: DiffusionConfig, *, avoid: str | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """The images (B, S, S, 3) of some prompts, one seed each, after each of `config.steps` steps.

        Heun's method: the mean of the velocities here and where it leads. Guidance 1 takes the words' own velocity,
        more exaggerates what they change; `avoid` are words that take the place of none. An image depends on its own
        prompt and seed alone.
        """
        side = self.config.size_px
        x_B3SS = torch.stack([torch.randn(3, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds])
        words_BLE = self.reader.read(prompts)
        none_BLE = torch.zeros_like(words_BLE) if avoid is None else self.reader.read([avoid] * len(prompts))

        def velocity(x_B3SS: Tensor, step: int) -> Tensor:
            t_B = torch.full((len(x_B3SS),), step / config.steps)
            worded_B3SS: Tensor = self.net(x_B3SS, t_B, words_BLE)
            if config.guidance == 1:
                return worded_B3SS
            return torch.lerp(self.net(x_B3SS, t_B, none_BLE), worded_B3SS, config.guidance)

        for step in range(config.steps):
            with torch.inference_mode():
                here_B3SS = there_B3SS = velocity(x_B3SS, step)
                if step < config.steps - 1:
                    there_B3SS = velocity(x_B3SS + here_B3SS / config.steps, step + 1)
                x_B3SS = x_B3SS + (here_B3SS + there_B3SS) / 2 / config.steps
            yield (x_B3SS * _SPREAD + 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def count_cut(self, prompt: str) -> int:
        """Tokens at the end of a prompt that the text tower doesn't read."""
        reading = self.reader.encoder.read_text(prompt)
        return reading.tokens - reading.read

    def draw(
        self,
        prompt: str,
        *,
        seed: int,
        config: DiffusionConfig,
        avoid: Sequence[str] = (),
        on_step: Callable[[int], bool] = lambda step: True,
    ) -> NDArray[np.uint8] | None:
        """One image (S, S, 3); None where `on_step` returned False. Raises InputError for another size than its own."""
        if config.size_px not in (None, self.config.size_px):
            raise InputError(f"This flow makes images of {self.config.size_px} pixels only, not {config.size_px}.")
        pixels_1SS3: NDArray[np.uint8] = np.empty((1, 0), np.uint8)
        for step, frame_1SS3 in enumerate(self.follow([prompt], [seed], config, avoid=", ".join(avoid) or None)):
            pixels_1SS3 = frame_1SS3
            if not on_step(step + 1):
                return None
        image: NDArray[np.uint8] = pixels_1SS3[0]
        return image
