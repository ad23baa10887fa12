"""The tools as smolagents' agents take them, each class made of what `tools.py` says; and a model that is scripted.

smolagents wants a tool that can be saved and shared to stand by itself: literals for attributes, imports inside
methods, a library that is named by its folder (an empty name takes the default one). So each class is made from source
that is written here. Pictures are Pillow images; no tool takes a path of a picture.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sightline.errors import InputError, install_advice

try:
    from smolagents import Tool
    from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole, Model

    from sightline.faces.integrations.tools import TOOLS, LibraryTool
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is missing: tools for agents need the extra: {install_advice('agents')}", name=error.name
    ) from error

Call = tuple[str, dict[str, Any]]
Step = Call | Callable[[str], Call]
"""A tool and its arguments; or what makes them of the text that the agent got last."""

_SOURCE = '''\
class {class_name}(Tool):
    """{title}."""

    name = {name!r}
    description = {description!r}
    inputs = {inputs!r}
    output_type = "object"

    def __init__(self, library: str = "", model: str = "") -> None:
        super().__init__()
        self.library = library
        self.model = model

    def forward(self{parameters}) -> dict:
        from sightline.faces.integrations.tools import call_by_folder

        asked = {{{arguments}}}
        return call_by_folder(self.library, {name!r}, asked, model=self.model)
'''
_LEFT_OUT = ("pictures",)
"""Arguments that are left out: answers are plain values here, without small pictures."""
_LARGEST_NAMED = 10**6


def library_tools(library: str = "", *, model: str = "", allow_write: bool = False) -> list[Tool]:
    """Every tool on the library in a folder; those that write only with `allow_write`."""
    chosen = [tool for tool in TOOLS.values() if allow_write or not tool.writes]
    return [_CLASSES[tool.name](library=library, model=model) for tool in chosen]


def _make_class(tool: LibraryTool) -> type[Tool]:
    """The class of a tool. Its source is where `inspect` finds it: smolagents saves it."""
    schema = tool.request.model_json_schema()
    required = schema.get("required", ())
    names = [name for name in schema["properties"] if name not in _LEFT_OUT]
    names.sort(key=lambda name: name not in required)
    class_name = tool.name.title().replace("_", "")
    source = _SOURCE.format(
        class_name=class_name,
        title=tool.title,
        name=tool.name,
        description=f"{tool.description} Answers {_list_fields(tool.output_schema())}.",
        inputs={name: _describe_input(schema, name) for name in names},
        parameters="".join(f", {name}: Any" if name in required else f", {name}: Any = None" for name in names),
        arguments=", ".join(f"{name!r}: {name}" for name in names),
    )
    place = f"<sightline tool {tool.name}>"
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)
    scope: dict[str, Any] = {"Tool": Tool, "Any": Any, "__name__": __name__}
    exec(compile(source, place, "exec"), scope)  # of nothing but what stands in this package
    made: type[Tool] = scope[class_name]
    made.__source__ = source
    return made


def _describe_input(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An argument as smolagents describes it, which knows neither ranges nor defaults nor what is in a list."""
    field = schema["properties"][name]
    kind = next((one for one in field.get("anyOf", ()) if one["type"] != "null"), field)
    is_image, notes = kind.get("contentEncoding") == "base64", []
    text = "A picture that is not in the library" if is_image else {**kind, **field}["description"].rstrip(".")
    if kind.get("maximum", _LARGEST_NAMED) < _LARGEST_NAMED:
        notes.append(f"{kind['minimum']} to {kind['maximum']}")
    if "enum" in kind:
        notes.append(f"one of {', '.join(kind['enum'])}")
    if "items" in kind:
        notes.append(f"a list of {_describe_items(schema, kind['items'])}")
    if field.get("default"):
        notes.append(f"{field['default']} if left out")
    described = {
        "type": "image" if is_image else kind["type"],
        "description": f"{text} ({'; '.join(notes)})." if notes else f"{text}.",
    }
    return described if name in schema.get("required", ()) else {**described, "nullable": True}


def _describe_items(schema: Mapping[str, Any], items: Mapping[str, Any]) -> str:
    if "$ref" not in items:
        return f"{items['type']}s"
    return f"objects of {', '.join(_resolve(schema, items)['properties'])}"


def _list_fields(schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> str:
    """The names of an answer's fields, with those of the objects in them."""
    whole = whole or schema
    return ", ".join(f"{name}{_list_inner(field, whole)}" for name, field in schema["properties"].items())


def _list_inner(field: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    inner = field.get("items", field)
    if "$ref" not in inner:
        return ""
    return f" ({'each ' if 'items' in field else ''}with {_list_fields(_resolve(whole, inner), whole)})"


def _resolve(schema: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][reference["$ref"].rpartition("/")[2]]
    return found


_CLASSES = {tool.name: _make_class(tool) for tool in TOOLS.values()}


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
