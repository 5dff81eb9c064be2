"""HTTPS webhooks: a notification as the body of a POST.

Success is any status of 2xx. The answer to an invocation is its body; of a notification's it is not read. Redirects are
not followed. The address goes through the guard at every try.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from callreel import web
from callreel.addresses import CALLBACKS, Policy, Resolver, look_up, read_url
from callreel.errors import DeliveryDeniedError, DeliveryError, UsageError
from callreel.notify import (
    ID_HEADER,
    INVOCATION,
    Answer,
    Limits,
    Notification,
    as_json,
    ask,
    limits_for,
    read_answer,
)
from callreel.notify.signatures import Signer

__all__ = ["CONTENT_TYPE", "Webhook"]

CONTENT_TYPE: Final = "application/json"


class Webhook:
    """An HTTPS address of a customer's."""

    def __init__(
        self,
        url: str,
        *,
        signer: Signer | None = None,
        policy: Policy = CALLBACKS,
        limits: Callable[[Notification], Limits] = limits_for,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        resolve: Resolver = look_up,
    ) -> None:
        """Tell notifications to `url`; `limits` in place of what their vendors do.

        Of `policy` the time is not used: `limits` has it.

        Raises:
            RefusedAddressError: the policy does not allow such a URL.
        """
        self._place = read_url(url, policy)
        self._url = url
        self._signer = signer
        self._policy = policy
        self._limits = limits
        self._clock = clock
        self._resolve = resolve

    def __repr__(self) -> str:
        """Path and query may hold a token."""
        return f"<Webhook {self._place.origin}>"

    @property
    def lane(self) -> str:
        """Scheme, host and port."""
        return self._place.origin

    def tell(self, notification: Notification) -> Answer | None:
        """Send it, as often as its limits have it.

        Raises:
            DeliveryError: it was not taken, or the time is over.
        """
        try:
            body = as_json(notification.body)
            return ask(
                self._limits(notification),
                lambda attempt_s: self._attempt(notification, body, attempt_s),
                what=f"the answer of {self.lane}",
            )
        except DeliveryError as error:
            error.key = notification.id
            raise

    def _attempt(self, notification: Notification, body: bytes, attempt_s: float) -> Answer | None:
        headers = {"Content-Type": CONTENT_TYPE, ID_HEADER: notification.id}
        if self._signer is not None:
            try:
                headers |= self._signer.headers(
                    event_id=notification.id,
                    method="POST",
                    path=self._place.path,
                    content_type=CONTENT_TYPE,
                    body=body,
                    at=self._clock(),
                )
            except DeliveryError:
                raise
            except Exception as error:
                why = str(error) if isinstance(error, UsageError) else type(error).__name__
                raise DeliveryDeniedError(f"it cannot be signed: {why}", retryable=True) from None
        wants_answer = notification.kind == INVOCATION
        got = web.post(
            self._url,
            body,
            headers,
            dataclasses.replace(self._policy, total_s=attempt_s),
            wants_body=wants_answer,
            resolve=self._resolve,
        )
        return read_answer(got.body) if wants_answer else None
