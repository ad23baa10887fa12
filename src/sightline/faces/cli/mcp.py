"""`mcp`."""

from __future__ import annotations

from pathlib import Path

import click

from sightline.errors import install_advice
from sightline.faces.cli.options import library_option, model_option, notice


@click.command()
@library_option
@model_option
@click.option("--captioner", metavar="NAME", help="The generator of captions [default: blip-base or the starter].")
@click.option("--allow-write", is_flag=True, help="Offer set_caption too; without it nothing in the library changes.")
@click.option("--transport", type=click.Choice(["stdio", "http"]), default="stdio", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="With http: an address of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes any free one.")
@click.option(
    "--token",
    envvar="SIGHTLINE_MCP_TOKEN",
    metavar="TOKEN",
    help="With http: what requests must carry [default: $SIGHTLINE_MCP_TOKEN, else a new one, printed once].",
)
def mcp(
    *,
    library_dir: Path | None,
    model: str | None,
    captioner: str | None,
    allow_write: bool,
    transport: str,
    host: str,
    port: int,
    token: str | None,
) -> None:
    """Let assistants use a library: a Model Context Protocol server, on stdin and stdout or over HTTP.

    An assistant starts it as: sightline mcp --library DIR. It can search, look and caption; it can't read other files.
    """
    try:
        from sightline.faces.integrations.mcp_server import LibraryServer
        from sightline.faces.web.mcp_http import make_config, run_http
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: MCP needs the extra: {install_advice('mcp')}") from error
    from sightline.faces.service.library import Libraries

    with Libraries(captioner=captioner) as libraries:
        library = libraries.open_folder(library_dir, model=model, allow_write=allow_write)
        server = LibraryServer(library)
        if transport == "http":
            config = make_config(host=host, port=port, token=token, library=library.config)
            libraries.warm()
            run_http(server, config, show_token=token is None, notice=notice)
        else:
            libraries.warm()
            server.run("stdio")
