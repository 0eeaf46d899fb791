"""The shell's way in: `tav`, or `python -m tav_core.cli`."""

import io
import sys
import warnings


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 2 refused or failed in a sentence, 130 stopped by Ctrl-C.

    arguments: in place of the command line's.
    """
    try:
        from . import tune, edit, run, info, convert, demo, evaluate  # noqa: F401, I001  they join the app, in this order
        from .app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print("tav needs typer: pip install 'typer>=0.12', or pip install 'tune-a-video[cli]'.", file=sys.stderr)
        sys.exit(2)
    _hush_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks a prompt's letters must not end a run
    app(arguments, prog_name="tav")


def _hush_libraries() -> None:
    """Leaves the screen to our own sentences; deprecations and progress inside of libraries are not the user's."""
    import diffusers
    import transformers

    warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
