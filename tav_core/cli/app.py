"""The app that the commands of `tav` join, one file each. Results go to stdout, the rest to stderr."""

from typing import Annotated

import typer
from typer.core import TyperGroup

from ..errors import message_for
from ..jobs.base import versions
from .screen import say


class Commands(TyperGroup):
    """Ends a command that fails or is stopped with a clear message; a bug keeps its traceback."""

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


def _say_versions(asked: bool) -> None:
    if asked:
        typer.echo(", ".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit()


@app.callback()
def tav(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_versions, help="Say the versions, and leave.")
    ] = False,
) -> None:
    """Tune-A-Video: one clip and one sentence in, edited videos with the same motion out.

    First `tav tune` a Stable Diffusion checkpoint on a clip and the sentence that describes it, then `tav edit` the
    clip with other sentences.
    """
