"""Calls with a time limit, such as calls to a device that may never answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Calls a function, and waits for its result for a limited time.

    Args:
      seconds: Time limit in seconds.
      function: Function to call. After the limit it keeps running in a thread of its own.

    Returns:
      The value of the function. Its errors are raised.

    Raises:
      TimeoutError: If the function has not returned in time.
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(
            f"no answer within {seconds:g} s. Does another program hold the devices? Do all"
            " processes run, and reach each other at any port?"
        ) from None
    if error:
        raise error
    return value  # type: ignore[return-value]
