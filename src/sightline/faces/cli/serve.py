"""Servers of libraries: `serve` for people, `mcp` for assistants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sightline.errors import install_advice
from sightline.faces.cli.options import (
    PATH,
    captioner_option,
    choice_option,
    default_option,
    library_option,
    model_option,
    precision_option,
)
from sightline.faces.cli.printing import notice
from sightline.kit.config import library_dir


@click.command()
@click.option(
    "--library",
    "library_dirs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A library's folder; can be given several times [default: $SIGHTLINE_LIBRARY, else one in your data folder].",
)
@default_option("--host", default="127.0.0.1", help="Where to listen; beyond this machine with a token.")
@default_option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes any free one.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name that it is reached by, such as a reverse proxy's; can be given several times.",
)
@click.option(
    "--allow-root",
    "allow_roots",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Folders below DIR may be added from the page; can be given several times.",
)
@model_option
@precision_option
@captioner_option
@click.option("--runs", type=PATH, metavar="DIR", help="Show the training runs in DIR.")
@click.option("--no-token", is_flag=True, help="Let everyone in, also beyond this machine.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
def serve(*, library_dirs: tuple[Path, ...], no_token: bool, open_page: bool, **settings: Any) -> None:
    """Serve the web page and the REST API of libraries, at http://127.0.0.1:8000/.

    Only this machine can connect, unless --host says otherwise. Nothing on disk is changed but the libraries.
    """
    try:
        from sightline.faces.web.server import run_server
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is missing: the web app needs the extra: {install_advice('web')}"
        ) from error
    from sightline.faces.web.config import ServeConfig

    config = ServeConfig(libraries=library_dirs or (library_dir(),), require_access=not no_token, **settings)
    run_server(config, open_page=open_page, notice=notice)


@click.command()
@library_option
@model_option
@captioner_option
@click.option(
    "--allow-write", is_flag=True, help="Offer the tools that write too; without it nothing in the library changes."
)
@choice_option("--transport", "stdio", "http")
@default_option("--host", default="127.0.0.1", help="With http: an address of this machine.")
@default_option("--port", type=click.IntRange(0, 65535), default=8765, help="0 takes any free one.")
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
