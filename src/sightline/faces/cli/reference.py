"""The command-line reference, made from the commands: `python -m sightline.faces.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

_HEAD = """# Command line

Made from the code by `python -m sightline.faces.cli.reference`; a test keeps it current.

stdout is data, stderr is progress and notices. Exit codes: 0 done, 1 failed or done in part, 2 wrong usage.
"""


def render_reference() -> str:
    """The whole reference as Markdown."""
    from sightline.faces.cli.main import sightline

    return "\n".join([_HEAD, *_describe(sightline, "sightline", parent=None)])


def _describe(command: click.Command, name: str, *, parent: click.Context | None) -> Iterator[str]:
    """A command's help as it is printed, then its subcommands'; contexts are nested because they inherit settings."""
    settings = {**command.context_settings, "max_content_width": 100}
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100, **settings)
    yield f"## `{context.command_path}`\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inner_name, inner in command.commands.items():
            yield from _describe(inner, inner_name, parent=context)


if __name__ == "__main__":
    click.echo(render_reference(), nl=False)
