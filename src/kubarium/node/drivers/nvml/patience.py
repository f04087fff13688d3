"""Asking a library that may hang: on a thread that nobody has to wait for, not even at the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Unresponsive(Exception):
    """There was no answer in time, or the question before this one still has none."""


class Messenger:
    """Asks one question after another on a daemon thread of its own: one that hangs keeps neither
    an event loop nor the end of the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._questions: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._last: Future[Any] | None = None

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """The answer to come: what ``question`` returns or raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        answer: Future[T] = Future()
        self._last = answer
        self._questions.put((question, answer))
        return answer

    def ask_within(self, patience_s: float, question: Callable[[], T]) -> T:
        """The answer, waited for; Unresponsive if it takes longer. After that nobody waits until
        the question that took too long is answered."""
        if self._last is not None and not self._last.done():
            raise Unresponsive
        answer = self.ask(question)
        try:
            return answer.result(patience_s)
        except TimeoutError:
            if answer.done():
                raise  # the question's own
            raise Unresponsive from None

    def _serve(self) -> None:
        while True:
            question, answer = self._questions.get()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(question())
            except BaseException as error:  # whatever it is, who has asked is told
                answer.set_exception(error)
