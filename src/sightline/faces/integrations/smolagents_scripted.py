"""A language model that follows a script: for runs of an agent whose tool calls, results and errors are real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole, Model

from sightline.errors import InputError

Call = tuple[str, dict[str, Any]]
Step = Call | Callable[[str], Call]
"""A tool and its arguments; or what makes them of the text that the agent got last."""


class ScriptedModel(Model):  # type: ignore[misc] # smolagents has no types
    """Gives one planned tool call after the other, whatever it is told. Needs neither network nor weights.

    Raises InputError where the agent asks for more steps than the script has.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__(model_id="scripted")
        self._steps = list(steps)
        self.seen: list[str] = []
        """The last message of each turn."""

    def generate(self, messages: list[ChatMessage], *_: Any, **__: Any) -> ChatMessage:
        """The next planned call as the model's answer."""
        self.seen.append(_text_of(messages[-1]))
        count = len(self.seen)
        if count > len(self._steps):
            raise InputError(f"The script has {len(self._steps)} steps and the agent asks for another.")
        step = self._steps[count - 1]
        name, arguments = step if isinstance(step, tuple) else step(self.seen[-1])
        function = ChatMessageToolCallFunction(name=name, arguments=arguments)
        call = ChatMessageToolCall(function=function, id=f"call_{count}", type="function")
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])


def _text_of(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(str(block["text"]) for block in message.content or [] if block.get("type") == "text")
