"""How the command speaks: one console for people, plain lines for pipes, errors without tracebacks.

Exit codes: 0 done, 1 the outcome was bad (a job failed, an object is missing), 2 the request was
wrong (flag, file, no cluster).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console

from kubarium.base.errors import ApiError, ConfigError

P = ParamSpec("P")
R = TypeVar("R")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def fail(message: str, code: int = 2) -> typer.Exit:
    """Print an error; raise what this returns."""
    err.print(f"[bold red]error:[/] {_escape(message)}")
    return typer.Exit(code)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


_is_program = False


def is_program() -> None:
    """Say that this process is the command itself, and not, say, a test of it."""
    global _is_program
    _is_program = True


def answered() -> None:
    """All has been said: end the process, if it is the command's own, without tidying up.

    To let go of all that a question about thousands of nodes has read takes longer than a second.
    """
    if _is_program:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def speaks_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our own typed errors into one line and an exit code."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            raise fail(str(error)) from None
        except ApiError as error:
            raise fail(f"{error} ({error.reason or error.code})", 1) from None
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(0) from None

    return guarded
