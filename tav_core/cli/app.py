"""The app that each command of `tav` registers with. Results go to stdout, everything else to stderr."""

from typing import Annotated

import typer
from typer.core import TyperGroup

from ..errors import message_for
from ..jobs.base import versions
from .screen import say


class Commands(TyperGroup):
    """Turns errors and Ctrl-C into a clear message and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say(str(stop) or "Stopped.")
            raise typer.Exit(130) from None
        except Exception as error:
            message = message_for(error)
            if message is None:
                raise
            say(f"Error: {message}")
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo(", ".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit()


@app.callback()
def tav(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="Print the versions and exit.")
    ] = False,
) -> None:
    """Tune-A-Video: one clip and one prompt in, edited videos with the same motion out.

    First `tav tune` a Stable Diffusion checkpoint on a clip and a prompt that describes it, then `tav edit` the clip
    with other prompts.
    """
