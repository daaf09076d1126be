"""A group of commands by name, each in a file of its own that is imported when the command runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class Lazy(click.Group):
    """Commands by name; `places` says in which module each is, as a form with the name."""

    def __init__(self, *args: Any, table: Mapping[str, str], places: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.table, self.places = table, places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        return importlib.import_module(self.places.format(name)).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.table:
            from luthier.registry import nearest

            guess = nearest(name, self.table)
            ctx.fail(f"no command {name!r}" + (f"; did you mean {guess}?" if guess else ""))
        return super().resolve_command(ctx, args)
