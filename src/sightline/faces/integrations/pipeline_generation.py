"""A text generator on this machine: transformers' `pipeline("text-generation")`. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sightline.core.models.files import TORCH_ADVICE, find_weights, torch_installed
from sightline.errors import ModelError
from sightline.faces.integrations.text_generation import SYSTEM, WritingConfig


class PipelineGenerator:
    """A causal language model of a folder; see `TextGenerator` for the contract. It loads on first use."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises ModelError where the folder has no safetensors, or the extra `torch` is missing."""
        if not torch_installed():
            raise ModelError(f"Text generation on this machine needs transformers and PyTorch; {TORCH_ADVICE}.")
        if not find_weights(folder):
            raise ModelError(f"{folder} has no safetensors; pickled weights (.bin) are not loaded. Convert them first.")
        self.name = name
        self._folder = folder

    def generate(self, prompts: Sequence[str], config: WritingConfig | None = None) -> list[str]:
        """One answer for each prompt. Raises ModelError where the model can't be loaded, or a prompt is too long."""
        config = config or WritingConfig()
        return [self._write(prompt, config) for prompt in prompts]

    @cached_property
    def _pipeline(self) -> Any:
        from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

        try:
            # local_files_only and no remote code: what lies in the folder is data
            model: Any = AutoModelForCausalLM.from_pretrained(self._folder, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
            return pipeline("text-generation", model=model.eval(), tokenizer=tokenizer)
        except Exception as error:  # transformers raises nearly anything on a folder that isn't right
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"{self.name} can't be loaded as a causal language model: {reason}") from error

    def _write(self, prompt: str, config: WritingConfig) -> str:
        import torch

        text = self._format(prompt)
        self._check_length(text, config)
        settings = self._settings(config)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                (answer,) = self._pipeline(text, generation_config=settings, return_full_text=False)
        except Exception as error:  # whatever fails inside must cost only what was asked of it
            raise ModelError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        return str(answer["generated_text"]).strip()

    def _settings(self, config: WritingConfig) -> Any:
        """Ours alone, on top of the ids that the folder names: its own lengths and temperatures don't count."""
        import transformers

        own, tokenizer = self._pipeline.model.generation_config, self._pipeline.tokenizer
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        warm = {"temperature": config.temperature} if config.temperature > 0 else {}
        make: Any = transformers.GenerationConfig
        return make(max_new_tokens=config.max_tokens, do_sample=bool(warm), eos_token_id=ends, pad_token_id=pad, **warm)

    def _format(self, prompt: str) -> str:
        """By the model's own chat template where it has one, else in plain lines."""
        tokenizer = self._pipeline.tokenizer
        if tokenizer.chat_template is None:
            return f"{SYSTEM}\n\n{prompt}\n\nAnswer:\n"
        messages = [{"role": "user", "content": f"{SYSTEM}\n\n{prompt}"}]
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # the template is a program of the folder's
            raise ModelError(f"{self.name}: its chat template fails: {error}") from error

    def _check_length(self, text: str, config: WritingConfig) -> None:
        length = len(self._pipeline.tokenizer(text)["input_ids"]) + config.max_tokens
        longest = getattr(self._pipeline.model.config, "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise ModelError(f"{self.name} reads {longest:,} tokens; prompt and answer together need {length:,}.")
