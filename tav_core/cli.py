"""The shell's door to the method: `tav`, or `python -m tav_core.cli`. Commands are in commands.py and *_command.py."""

import io
import sys
import warnings


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 2 refused or failed in a sentence, 130 stopped by Ctrl-C.

    arguments: in place of the command line's.
    """
    try:
        from . import convert_command, demo_command, eval_command  # noqa: F401  they join the app
        from .commands import app
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


if __name__ == "__main__":
    main()
