"""A text generator behind any endpoint that speaks OpenAI's chat format: vLLM, llama.cpp, TGI, Ollama, a provider."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sightline.core.models.json_client import JsonPoster, PostLimits, shown
from sightline.errors import InputError, ModelError
from sightline.faces.integrations.text_generation import SYSTEM, WritingConfig

_PATH = "/chat/completions"
_CONNECTIONS = 4
_LIMITS = PostLimits(read_timeout_s=120, total_timeout_s=180, max_answer_bytes=2_000_000, tries=4, longest_wait_s=30)
_MOST_CHARS = 20_000


class ChatGenerator:
    """A model of a chat endpoint; see `TextGenerator` for the contract. Prompts go one by one, some at a time."""

    def __init__(self, model: str, *, url: str, key: str | None = None, limits: PostLimits | None = None) -> None:
        """`url` is the API's base (`https://host/v1`) or its whole address. Raises InputError for a bad address."""
        if "?" in url or "#" in url:
            raise InputError(
                "The chat endpoint's address must have no ? or #; give the API's base, such as https://host/v1"
            )
        base = url.rstrip("/")
        self.name = f"chat:{model}"
        self._model = model
        self._poster = JsonPoster(base if base.endswith(_PATH) else base + _PATH, key=key, limits=limits or _LIMITS)

    def generate(self, prompts: Sequence[str], config: WritingConfig | None = None) -> list[str]:
        """One answer for each prompt. Raises ModelError where the endpoint fails, or answers in another format."""
        config = config or WritingConfig()
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="sightline-chat") as pool:
            return list(pool.map(lambda prompt: self._ask(prompt, config), prompts))

    def _ask(self, prompt: str, config: WritingConfig) -> str:
        answer = self._poster.post(
            {
                "model": self._model,
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
                "max_tokens": config.max_tokens,
                "temperature": config.temperature,
                "seed": config.seed,
                "stream": False,
            }
        )
        return self._read(answer)

    def _read(self, answer: Any) -> str:
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ModelError(f"{self.name}: the endpoint's answer is no chat completion: {shown(answer)}") from error
        if not isinstance(content, str):
            raise ModelError(f"{self.name}: the endpoint's answer holds no text: {shown(content)}")
        return content[:_MOST_CHARS].strip()
