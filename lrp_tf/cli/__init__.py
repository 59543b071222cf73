"""The command `lrp-tf`: explains what any saved Keras model says of images and texts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from lrp_tf import terminal
from lrp_tf.cli import quiet

USAGE, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lrp-tf`; returns the exit code: 0, 1 some images failed, 2 wrong use, 130 interrupted."""
    return guarded(_parser, _run, argv)


def _parser() -> argparse.ArgumentParser:
    from lrp_tf.cli import (
        benchmark_options,
        comparing,
        export_options,
        merge_options,
        options,
        reference_options,
        text_options,
        tune_options,
    )

    pictures = (export_options, merge_options, reference_options)
    more = (text_options, comparing, benchmark_options, tune_options, *pictures)
    return options.parser({name: command for module in more for name, command in module.COMMANDS.items()})


def _run(options: argparse.Namespace) -> int:
    from lrp_tf.cli import benchmark, commands, evaluate, exporting, grid, merge, reference, text, tune

    terminal.raise_interrupt()
    parts = (commands, exporting, text, evaluate, grid, benchmark, tune, merge, reference)
    known = {name: run for part in parts for name, run in part.COMMANDS.items()}
    return known[options.command](options)


def guarded(
    make_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run, and turn mistakes of the user into a message without a traceback.

    Args:
        make_parser: `--help` and wrong options end in the parser, before TensorFlow is imported.
        run: executes the options and returns the exit code. It imports what needs TensorFlow.

    Returns:
        The exit code, see `main`.
    """
    saves = False
    terminal.open_streams()
    try:
        with terminal.interruptible():
            parser = make_parser()
            options = parser.parse_args(argv)
            saves = hasattr(options, "resume")
            quiet.import_tensorflow()
            if getattr(options, "threads", None) is not None:
                _limit_threads(options.threads)
            terminal.raise_interrupt()
            code = run(options)
            terminal.raise_interrupt()
            return code
    except (OSError, ValueError, TypeError, ImportError) as error:
        from lrp_tf.cli.messages import message_of

        message = terminal.printable(message_of(error), keep="\n")
        terminal.say(f"{parser.prog}: error: {message}", error=True)
        return USAGE
    except KeyboardInterrupt:
        kept = " Finished results are complete; use --resume to continue." if saves else ""
        terminal.say(f"\nInterrupted.{kept}", error=True)
        return INTERRUPTED
    finally:
        terminal.flush()


def _limit_threads(count: int) -> None:
    from lrp_tf import threads

    threads.limit(count)


if __name__ == "__main__":
    sys.exit(main())
