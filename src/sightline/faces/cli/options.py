"""The common parts of commands: groups, types of values, options."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Settings = TypeVar("Settings")

_PRECISION = "SIGHTLINE_PRECISION"
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)
NUMBER = click.IntRange(min=0)


class CommandGroup(click.Group):
    """A group whose help shows each command's summary whole, wrapped where it is long, by sections if it has some."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sections: dict[str, tuple[click.Command, ...]] = {}

    def add_section(self, heading: str, *commands: click.Command) -> None:
        """Commands that stand together in the help, in this order."""
        self._sections[heading] = commands
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, their columns aligned with each other."""
        sections = self._sections or {"Commands": tuple(self.commands[name] for name in self.list_commands(ctx))}
        width = max(len(name) for name in self.commands)
        for heading, commands in sections.items():
            with formatter.section(heading):
                # More characters than any summary has.
                formatter.write_dl([(str(c.name).ljust(width), c.get_short_help_str(1_000)) for c in commands])


class QueryCommand(click.Command):
    """A command whose arguments are a query: what begins with a sign and is none of its options is a word.

    Options stand before, between or after the words, as everywhere. Their short forms stand alone (`-t 5`) or before a
    number (`-t5`): click would read `-snow` as `-s now`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options first, then the words behind `--`, so that click takes no word for an option."""
        if ctx.resilient_parsing:  # the shell completes a line
            return super().parse_args(ctx, args)
        options: list[str] = []
        words: list[str] = []
        known = {name: param for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        rest = iter(args)
        for arg in rest:
            if arg == "--":
                words += rest
            elif not _is_option(arg, known):
                words.append(arg)
            else:
                options.append(arg)
                param = known.get(arg)
                if isinstance(param, click.Option) and not (param.is_flag or param.count):
                    value = next(rest, None)
                    if value is None:
                        return super().parse_args(ctx, options)  # which says that it is missing
                    options.append(value)
        return super().parse_args(ctx, [*options, "--", *words])


def _is_option(arg: str, known: Mapping[str, click.Parameter]) -> bool:
    """True for an option, known or not, rather than a word. Raises UsageError for one that is written wrongly."""
    if arg.startswith("--") or arg in known:
        return True
    if not re.match(r"-[A-Za-z]", arg):
        return False
    name, rest = arg[:2], arg[2:]
    if not rest:
        raise click.UsageError(f"There is no option {arg}. To look away from the letter, write: - {arg[1:]}")
    if name in known and rest[0] == "=":
        raise click.UsageError(f"{name} takes its value after a space: {name} {rest[1:] or 'VALUE'}")
    if f"-{arg.partition('=')[0]}" in known:
        raise click.UsageError(
            f"There is no option {arg}; did you mean -{arg}? To look away from the word, write: - {arg[1:]}"
        )
    return name in known and rest[0].isdigit()


library_option = click.option(
    "--library",
    "library_dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The library's folder [default: $SIGHTLINE_LIBRARY, else one in your data folder].",
)
model_option = click.option(
    "--model", metavar="NAME", help="The model, such as starter, ViT-B-32/openai or dir:PATH [default: the library's]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")

chat_url_option = click.option(
    "--chat-url", metavar="URL", help="Of a chat endpoint, as in https://host/v1 [default: $SIGHTLINE_CHAT_URL]."
)
split_option = click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    help="The part measured; all, where there are no splits [default: val, else test].",
)
figures_option = click.option("-o", "--output", type=FILE, metavar="FILE", help="Keep the JSON.")
captioner_option = click.option(
    "--captioner", metavar="NAME", help="The generator of captions [default: blip-base or the starter]."
)


def _set_precision(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Hand the option to `config.precision()`, for this command and the processes that it starts."""
    if value is None:
        return
    before = os.environ.get(_PRECISION)
    os.environ[_PRECISION] = value
    context.call_on_close(
        lambda: os.environ.pop(_PRECISION) if before is None else os.environ.update({_PRECISION: before})
    )


precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "int8"]),
    expose_value=False,
    callback=_set_precision,
    help="Of models: auto is int8 where it passed a gate on your pictures [default: $SIGHTLINE_PRECISION, else auto].",
)


def default_option(*names: str, default: Any, **facts: Any) -> Callable[[Command], Command]:
    """An option whose help shows its default."""
    return click.option(*names, default=default, show_default=True, **facts)


def choice_option(name: str, *values: str, default: str | None = None, **facts: Any) -> Callable[[Command], Command]:
    """One of some values; the first where none is given, unless another is the default."""
    return default_option(name, type=click.Choice(values), default=default or values[0], **facts)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def where_options(command: Command) -> Command:
    """--where and its short forms, which reach the command as one filter, `where`."""

    @functools.wraps(command)
    def join(*, where: str | None, folder: Path | None, **options: Any) -> Any:
        from sightline.core.store.filters import join_filters

        short = {name: options.pop(name) for name in ("after", "before", "camera", "place")}
        named = str(folder.absolute() if folder and folder.is_dir() else folder) if folder else None
        return command(where=join_filters(where, folder=named, **short), **options)

    return _WHERE(cast("Command", join))


_WHERE = with_options(
    click.option(
        "--where",
        metavar="FILTER",
        help="Only these images, as in: taken_at > '2024-01-01' and path like '%holiday%'. Fields: path, name, folder, "
        "format, width, height, aspect, size_bytes, modified_at, indexed_at, taken_at, latitude, longitude, altitude, "
        "camera, lens, f_number, exposure, iso, focal_mm, rating, keywords, title, description, author, place, city, "
        "region, country, caption, captioned.",
    ),
    click.option("--in", "folder", type=PATH, metavar="FOLDER", help="Only images below a folder, by path or name."),
    click.option("--after", metavar="DATE", help="Only images taken on that date or later: 2024, 2024-05, 2024-05-01."),
    click.option("--before", metavar="DATE", help="Only images taken before that date."),
    click.option("--camera", metavar="NAME", help="Only images of this camera; a part of its name is enough."),
    click.option("--place", metavar="NAME", help="Only images taken in this city, region or country."),
)


def take_fields(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """A dataclass made of the options that are called as its fields are."""
    return kind(**{name: options[name] for name in inspect.signature(kind).parameters if name in options})


def require_folder_of(path: Path | None, *, option: str) -> None:
    """Refuse a file whose folder isn't there, before hours are spent on what it is to hold."""
    if path is not None and not path.parent.is_dir():
        raise click.UsageError(f"{option}: the folder {path.parent} doesn't exist.")
