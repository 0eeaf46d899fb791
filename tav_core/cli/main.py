"""The entry point of `tav` and `python -m tav_core.cli`."""

import io
import sys
import warnings


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: with 0 on success, 2 after an error message, 130 after Ctrl-C.

    arguments: by default those of the command line.
    """
    try:
        from . import tune, edit, fill, run, info, convert, demo, evaluate  # noqa: F401, I001  each registers, in this order
        from .app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print("tav needs typer: pip install 'typer>=0.12', or pip install 'tune-a-video[cli]'.", file=sys.stderr)
        sys.exit(2)
    _hush_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot show a prompt must not end a run
    app(arguments, prog_name="tav")


def _hush_libraries() -> None:
    """Silences the libraries' warnings and progress bars, which mean nothing to the user."""
    import diffusers
    import transformers

    warnings.simplefilter("ignore")
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
