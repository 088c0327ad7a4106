"""The command `coordexp`: sub-commands, errors as sentences, exit codes. Loads nothing heavy; each command imports its recipe when it runs.

Exit codes: 0 done, 1 a bug of ours (with a traceback), 2 the user can mend it (one sentence), 3 done but for some inputs (predict) or with
warnings (doctor data), 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from coordexp.cli import calibrate, config_cmd, data, demo, doctor, evaluate, infer, launch, merge, model, predict, report, rollout_server, train, vis
from coordexp.cli.command_line import arguments as running
from coordexp.types.errors import UserError
from coordexp.types.files import describe_os_error

INTERRUPTED = 130

_UsageError = typer.BadParameter.__base__
assert _UsageError is not None
_ClickError: type[Exception] = _UsageError.__base__  # pyright: ignore[reportAssignmentType]

_EXTRAS = {
    "train": ("torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "scipy", "tensorboard", "httpx", "tenacity"),
    "report": ("jinja2", "matplotlib"),
    "demo": ("sklearn", "psutil"),
    "polygons": ("shapely",),
    "vllm": ("vllm",),
}

app = typer.Typer(name="coordexp", no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def _show_version(value: bool) -> None:
    if value:
        from coordexp import __version__

        typer.echo(f"coordexp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (or set COORDEXP_DEBUG=1).")] = False,
) -> None:
    """Turn a vision-language model into an open-vocabulary object detector.

    Coordinates are tokens: import a data set, fine-tune, detect, measure, look.
    """


_OVERRIDES = {"ignore_unknown_options": True}  # so that --training.max_steps=5 reaches the parser of overrides
app.command("demo", short_help="The whole path on this machine, in ten minutes.")(demo.demo)
app.add_typer(data.app, name="data")
app.command("train", short_help="Train a checkpoint.", context_settings=_OVERRIDES)(train.train)
app.command("launch", short_help="Rollout servers and a learner beside them on this machine.", context_settings=_OVERRIDES)(launch.launch)
app.command("predict", short_help="Detect objects on pictures.")(predict.predict)
app.command("infer", short_help="Detect objects on the images of a data file.", context_settings=_OVERRIDES)(infer.infer)
app.command("merge", short_help="Put the parts of an inference run together.")(merge.merge)
app.add_typer(evaluate.app, name="eval")
app.add_typer(calibrate.app, name="calibrate")
app.command("vis", short_help="Draw ground truth and predictions.")(vis.vis)
app.command("report", short_help="Write a report: one HTML file.")(report.report)
app.command("rollout-server", short_help="Serve rollouts to a Stage-2 training (vLLM).")(rollout_server.rollout_server)
app.add_typer(model.app, name="model")
app.add_typer(config_cmd.app, name="config")
app.add_typer(doctor.app, name="doctor")


def _share_processors() -> None:
    """Threads of torch that wait for each other sleep after some microseconds instead of milliseconds; to be said before torch is loaded.

    On a busy machine the others are waiting for a processor that the waiting ones keep (docs/decisions/busy-machines.md). What the user has set stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. `--debug` may stand anywhere."""
    _share_processors()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("COORDEXP_DEBUG", "") not in {"", "0"}
    arguments = [argument for argument in arguments if argument != "--debug"]
    running.set(tuple(arguments))
    try:
        result: object = app(args=arguments, prog_name="coordexp", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except UserError as error:
        return _say(f"error: {error}", error.exit_code, debug=debug)
    except _ClickError as error:
        return _usage(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: the flush at exit must not complain
        return 128 + signal.SIGPIPE
    except OSError as error:
        described = describe_os_error(error)
        if described is None:
            raise
        return _say(f"error: {described}", described.exit_code, debug=debug)
    except ModuleNotFoundError as error:
        extra = next((name for name, modules in _EXTRAS.items() if (error.name or "").partition(".")[0] in modules), None)
        if extra is None:
            raise
        extra = "demo" if arguments[:1] == ["demo"] else extra  # which needs all the others
        return _say(f"error: this command needs {error.name}; install it with: pip install 'coordexp[{extra}]'", 2, debug=debug)
    if result == INTERRUPTED:  # typer may have turned Ctrl-C into this exit code itself
        typer.echo("interrupted", err=True)
    return result if isinstance(result, int) else 0


def _say(sentence: str, code: int, *, debug: bool) -> int:
    from coordexp.config.redact import redact_text

    if debug:
        typer.echo(redact_text(traceback.format_exc()), err=True, nl=False)
    typer.echo(redact_text(sentence), err=True)
    return code


def _usage(error: Exception) -> int:
    """A wrong flag or argument: what is wrong, and where the right ones are listed. A group without a command shows its help."""
    message = str(error.format_message())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "coordexp"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 2
    return _say(f"error: {message.rstrip('.')}; see '{path} --help'", 2, debug=False)
