"""A library as a Model Context Protocol server. The SDK speaks the protocol; tools are those of `tools.py`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, Tool, ToolAnnotations

from sightline import __version__
from sightline.errors import SightlineError
from sightline.faces.integrations.tools import UNTRUSTED, LibraryTool, available_tools, find_tool
from sightline.faces.integrations.tools_schemas import MAX_MESSAGE_CHARS, ToolResult
from sightline.faces.service.images import find_thumbnail
from sightline.faces.service.library import OpenLibrary
from sightline.faces.service.models import Lane
from sightline.faces.service.thumbnails import SIZES_PX
from sightline.kit.text import neutralise

_INSTRUCTIONS = (
    "Tools on one library of a person's images. Start with search_images, or with library_stats. Images are named by "
    f"id; files can't be named by path. {UNTRUSTED}"
)


class LibraryServer(MCPServer[Any]):
    """An MCP server over one library."""

    def __init__(self, library: OpenLibrary) -> None:
        super().__init__(
            name="sightline",
            title="Sightline",
            description="Find, caption and explain the images of a library.",
            instructions=_INSTRUCTIONS,
            version=__version__,
            log_level="WARNING",
        )
        self._library = library
        self._lanes = {name: Lane() for name in available_tools(library)}

    async def list_tools(self) -> list[Tool]:
        """The tools that the library allows."""
        return [_describe(tool) for tool in available_tools(self._library).values()]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult:
        """Call a tool in one of its own threads: a slow one holds no other up.

        Raises ToolError, which the SDK gives to the assistant as the call's result.
        """
        try:
            tool = find_tool(self._library, name)
            return await self._lanes[name].run(_call, self._library, tool, arguments)
        except SightlineError as error:
            raise ToolError(str(error)) from error


def _describe(tool: LibraryTool) -> Tool:
    hints = ToolAnnotations(
        title=tool.title,
        read_only_hint=not tool.writes,
        destructive_hint=tool.writes,
        idempotent_hint=True,
        open_world_hint=False,
    )
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.request.model_json_schema(),
        output_schema=tool.output_schema(),
        annotations=hints,
    )


def _call(library: OpenLibrary, tool: LibraryTool, arguments: dict[str, Any]) -> CallToolResult:
    request = tool.read(arguments)
    result = tool.call(library, request)
    structured = result.model_dump(mode="json")
    content: list[ContentBlock] = [TextContent(text=json.dumps(structured, ensure_ascii=False))]
    content += _show_images(library, result, getattr(request, "pictures", 0))
    return CallToolResult(content=content, structured_content=structured)


def _show_images(library: OpenLibrary, result: ToolResult, count: int) -> Iterable[ContentBlock]:
    """The first pictures of an answer, each after the line that says which it is."""
    shown = result.image_ids[:count]
    size_px = SIZES_PX[len(result.image_ids) == 1]
    for image_id in shown:
        try:
            webp = find_thumbnail(library, library.image(image_id), size_px)
        except SightlineError as error:
            told = json.dumps(neutralise(error, max_chars=MAX_MESSAGE_CHARS), ensure_ascii=False)
            yield TextContent(text=f"Image {image_id} can't be shown: {told}")
            continue
        yield TextContent(text=f"Image {image_id}:")
        yield ImageContent(data=base64.b64encode(webp).decode("ascii"), mime_type="image/webp")
