"""A Python function of the host's own as the way to a customer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from callreel.errors import DeliveryError, UsageError
from callreel.notify import INVOCATION, Answer, Limits, Notification, ask, limits_for
from callreel.patience import Deadline, within

__all__ = ["PythonFunction"]


class PythonFunction:
    """A function that takes a notification; what it returns for an invocation is the answer."""

    def __init__(
        self,
        function: Callable[[Notification], Any],
        *,
        name: str | None = None,
        limits: Callable[[Notification], Limits] = limits_for,
    ) -> None:
        """Call `function`, in a thread of its own, since it might never return.

        It may raise a `DeliveryError`; of anything else it raises only the class is told, and it is tried again.
        """
        if inspect.iscoroutinefunction(function):
            raise UsageError("a coroutine function needs a loop: wrap it in one that runs it")
        self._function = function
        self._name = name or getattr(function, "__name__", type(function).__name__)
        self._limits = limits

    def __repr__(self) -> str:
        """Only the name."""
        return f"<PythonFunction {self._name}>"

    @property
    def lane(self) -> str:
        """The function's name."""
        return f"python:{self._name}"

    def tell(self, notification: Notification) -> Answer | None:
        """Call it, as often as its limits have it.

        Raises:
            DeliveryError: it raised something, or the time is over.
        """
        try:
            return ask(
                self._limits(notification),
                lambda attempt_s: within(
                    Deadline(f"the function {self._name}", attempt_s),
                    lambda: self._call(notification),
                    lane=self.lane,
                ),
                what=f"the function {self._name}",
            )
        except DeliveryError as error:
            error.key = notification.id
            raise

    def _call(self, notification: Notification) -> Answer | None:
        try:
            document = self._function(notification)
        except DeliveryError:
            raise
        except Exception as error:
            raise DeliveryError(
                f"the function {self._name} raised {type(error).__name__}", retryable=True
            ) from None
        return Answer(document) if notification.kind == INVOCATION else None
