"""Text-to-image pipelines of diffusers, from a local folder or the hub. Needs the extra `generate`.

Weights are read from safetensors only, and a folder that brings code of its own is refused. Shape suffixes: H W pixels.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError, ModelError, install_advice
from sightline.kit.config import expand
from sightline.lab.generate.config import DiffusionConfig

if TYPE_CHECKING:
    from sightline.core.models.base import Encoder

_INDEX = "model_index.json"


class TextToImage:
    """A loaded pipeline: words and a seed -> an image."""

    safety_checker = None
    """None is run: images are shown as they come."""
    readers: Sequence[Encoder] = ()
    """Models of ours that had a part in making the images; none may judge them."""

    def __init__(self, pipeline: Any, name: str) -> None:
        self.name = name
        self.class_name = type(pipeline).__name__
        self._pipeline = pipeline
        self._takes = set(inspect.signature(pipeline.__call__).parameters)

    @classmethod
    def load(cls, name: str, *, download: bool = False, device: str = "auto") -> TextToImage:
        """From a folder that `save_pretrained` wrote, or a name on the hub; the network is used only with `download`.

        Raises ModelError where diffusers is missing, the files are missing or broken, weights are pickles, code would
        have to be run, or the pipeline doesn't make images from words.
        """
        if find_spec("diffusers") is None or find_spec("torch") is None:
            raise ModelError(f"diffusers needs its extra: {install_advice('generate')}")
        folder = _find_folder(name, download=download)
        parts = _check_folder(folder)
        import diffusers
        import torch

        from sightline.core.models.torch_models import choose_device

        auto: Any = diffusers.AutoPipelineForText2Image
        plain: Any = diffusers.DiffusionPipeline
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
        options |= {"safety_checker": None} if "safety_checker" in parts else {}
        with quiet_diffusers():
            try:
                try:
                    pipeline = auto.from_pretrained(str(folder), **options)
                except ValueError:  # it knows no such class, or can't read the folder, which the plain way says too
                    pipeline = plain.from_pretrained(str(folder), **options)
            except Exception as error:  # what is raised depends on which of many classes reads a broken file
                raise ModelError(
                    f"{folder} can't be loaded as a diffusers pipeline: {error}. It needs the layout of "
                    "`save_pretrained`, with safetensors weights."
                ) from error
        if "prompt" not in inspect.signature(pipeline.__call__).parameters:
            raise ModelError(f"{folder} is a {type(pipeline).__name__}, which makes no pictures from words.")
        pipeline.set_progress_bar_config(disable=True)
        if (chosen := choose_device(device)) != "cpu":
            pipeline = pipeline.to(chosen, torch.float16 if chosen == "cuda" else torch.float32)
        return cls(pipeline, name)

    def count_cut(self, prompt: str) -> int:
        """Tokens at the end of a prompt that the pipeline's text encoder doesn't read."""
        tokenizer = getattr(self._pipeline, "tokenizer", None)
        if tokenizer is None or getattr(tokenizer, "model_max_length", None) is None:
            return 0
        with quiet_diffusers():
            return max(0, len(tokenizer(prompt).input_ids) - int(tokenizer.model_max_length))

    def draw(
        self,
        prompt: str,
        *,
        seed: int,
        config: DiffusionConfig,
        avoid: Sequence[str] = (),
        on_step: Callable[[int], bool] = lambda step: True,
    ) -> NDArray[np.uint8] | None:
        """One image (H, W, 3); the same for a seed on one machine. None where `on_step` returned False.

        Raises InputError for settings that this pipeline refuses.
        """
        import torch

        going = True

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal going
            going = going and on_step(step + 1)
            pipeline._interrupt = not going  # diffusers' own way of leaving the steps that remain
            return tensors

        wanted = {
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance,
            "negative_prompt": ", ".join(avoid) or None,
            "height": config.size_px,
            "width": config.size_px,
            "generator": torch.Generator().manual_seed(seed),
            "callback_on_step_end": after_step,
        }
        if avoid and "negative_prompt" not in self._takes:
            raise InputError(f"{self.class_name} takes no negative prompt; leave --avoid out.")
        options = {key: value for key, value in wanted.items() if key in self._takes and value is not None}
        with quiet_diffusers():
            try:
                images = self._pipeline(prompt, **options).images
            except (ValueError, TypeError, RuntimeError) as error:
                raise InputError(f"{self.class_name} refuses these settings: {error}") from error
        return np.asarray(images[0].convert("RGB")) if going else None


def _find_folder(name: str, *, download: bool) -> Path:
    path = expand(name)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"{path} isn't there. Give a pipeline's folder, or its name on the hub, as ORG/NAME.")
    from diffusers import DiffusionPipeline

    from sightline.core.models.hub import hub_error

    with quiet_diffusers():
        try:
            return Path(
                DiffusionPipeline.download(
                    name, use_safetensors=True, local_files_only=not download, safety_checker=None
                )
            )
        except Exception as error:  # huggingface_hub's, diffusers' and the HTTP library's own
            if download:
                raise hub_error(name, "main", error) from error
            raise ModelError(
                f"The pipeline {name} is not on this machine. Fetch it with --download, or give the folder of a copy: "
                f"--engine diffusers:PATH"
            ) from error


def _check_folder(folder: Path) -> set[str]:
    """Names of a pipeline's parts. Raises ModelError where it is none, or brings code or pickled weights alone."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        parts = {key for key, value in index.items() if isinstance(value, list)}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder} is no diffusers pipeline: its {_INDEX} can't be read ({error}).") from error
    if code := sorted(folder.rglob("*.py")):
        raise ModelError(f"{folder} holds code ({code[0].name}), which is never run. Use a pipeline of diffusers' own.")
    if not any(folder.rglob("*.safetensors")):
        raise ModelError(
            f"{folder} has no safetensors weights. Pickled ones (.bin) can run code and are never loaded; save the "
            "pipeline again with safe_serialization=True."
        )
    return parts


@contextlib.contextmanager
def quiet_diffusers() -> Iterator[None]:
    """No remarks of diffusers and transformers on what we check ourselves."""
    from sightline.core.models.torch_models import quiet_transformers

    with quiet_transformers(), quiet_transformers("diffusers"):
        yield
