"""Sessions of the vendors' dialects for calls of tenants, and the way back: who is told what a session has to say."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from callreel.actions import NOTHING
from callreel.dialects import Session
from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.errors import UsageError
from callreel.events import VendorMessage
from callreel.notify import Notifier
from callreel.service.common_files import open_file
from callreel.service.permits import Permits
from callreel.service.vendors import VendorSettings

__all__ = ["DRIVE_PATH", "HELD_PATH", "Customer", "Customers", "Routes"]

CALLS_PATH: Final = "/calling/v1/calls/id/"
DRIVE_PATH: Final = "/calling/v1/recording/"
HELD_PATH: Final = "/graph/recordings/"
"""Where Graph's recordings are downloaded: below it stands the call's id, then that of the recording."""

OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "chime": frozenset(
        {"account_id", "region", "sip_media_application_id", "sip_rule_id", "record_audio_format"}
    ),
    "sinch": frozenset({"application_key", "custom", "domain", "layout"}),
    "graph": frozenset({"application_id", "revision"}),
}
"""What of a session a request may set; all else is the operator's."""
APPLICATION: Final = {
    "chime": "sip_media_application_id",
    "sinch": "application_key",
    "graph": "application_id",
}
"""The option that names one of the vendor's applications."""

ROUTES: Final = """
create table if not exists routes (call_id text primary key, application text not null, at_s real not null);
create index if not exists routes_by_time on routes (at_s);
"""
KEPT_S: Final = 7 * 86_400
"""How long it is known whose a call was: messages that a restart has found may still have to be told."""


class Customer(NamedTuple):
    """Whose call it is."""

    session: Session
    application: str
    """The vendor's name of it; empty for one that nobody has set up."""


class Routes:
    """Which application a call is of, in a file, so that what is told after a restart reaches it.

    Any thread, and any number of processes.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, which is made if need be."""
        self._lock = threading.Lock()
        self._file = open_file(path, ROUTES)
        self.sweep()

    def keep(self, call_id: str, application: str) -> None:
        """Note it."""
        with self._lock:
            self._file.execute(
                "insert or replace into routes values (?, ?, ?)", (call_id, application, time.time())
            )

    def application_of(self, call_id: str) -> str | None:
        """The application; None for a call that is not known."""
        with self._lock:
            row = self._file.execute(
                "select application from routes where call_id = ?", (call_id,)
            ).fetchone()
        return None if row is None else str(row[0])

    def sweep(self) -> None:
        """Forget what is too old."""
        with self._lock:
            self._file.execute("delete from routes where at_s < ?", (time.time() - KEPT_S,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


class Customers:
    """The vendors' applications of all tenants; any thread."""

    def __init__(
        self,
        settings: VendorSettings,
        routes: Routes,
        *,
        public_url: str,
        permits: Permits,
        others: Mapping[str, Notifier] = NOTHING,
        is_open: bool = False,
    ) -> None:
        """`public_url`: how clients reach the service. `others`: who is told, by dialect, of calls of no application.

        `permits`: where it is noted which of Graph's recordings may be downloaded. `is_open`: every application is
        everybody's.
        """
        self.settings = settings
        self.public_url = public_url.rstrip("/")
        self._permits = permits
        self._others = others
        self._is_open = is_open
        self._routes = routes
        self._applications: Mapping[str, Mapping[str, Any]] = {
            "chime": settings.chime.applications,
            "sinch": settings.sinch.applications,
            "graph": settings.graph.applications,
        }

    def is_theirs(self, dialect: str, application: str, tenant: str) -> bool:
        """Whether it is an application of this tenant's."""
        known = self._applications[dialect].get(application)
        return known is not None and (self._is_open or known.tenant == tenant)

    def customer(
        self,
        dialect: str,
        options: Mapping[str, Any],
        *,
        tenant: str,
        call_id: str,
        arguments: Mapping[str, str] | None = None,
    ) -> Customer:
        """A session for a call of this tenant's; UsageError for options that it does not have.

        Where the options name no application and the tenant has one only, it is that.
        """
        unknown = set(options) - OPTIONS[dialect]
        if unknown:
            raise UsageError(
                f"{dialect} has no option {sorted(unknown)[0]!r}: one of {', '.join(sorted(OPTIONS[dialect]))}"
            )
        given = dict(options)
        name = APPLICATION[dialect]
        application = given.get(name)
        theirs = [one for one in self._applications[dialect] if self.is_theirs(dialect, one, tenant)]
        if application is None:
            application = theirs[0] if len(theirs) == 1 else ""
        elif not isinstance(application, str):
            raise UsageError(f"{dialect}: {name} is text")
        elif application in self._applications[dialect] and application not in theirs:
            raise UsageError(f"{dialect}: there is no application {application}")
        before = self._routes.application_of(call_id)
        if before and before != application:
            # What is still to be told of the other call must not reach this one's customer.
            raise UsageError(f"there is a call {call_id}")
        given[name] = application
        try:
            session = self._session(dialect, given, tenant, call_id, arguments)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{dialect}: {error}") from None
        return Customer(session, application if application in theirs else "")

    def _session(
        self,
        dialect: str,
        given: dict[str, Any],
        tenant: str,
        call_id: str,
        arguments: Mapping[str, str] | None,
    ) -> Session:
        match dialect:
            case "chime":
                known = self.settings.chime.applications.get(given["sip_media_application_id"])
                defaults: dict[str, Any] = {"region": self.settings.chime.region}
                if known is not None:
                    defaults |= {
                        "account_id": known.account_id,
                        "record_audio_format": known.record_audio_format,
                    }
                return Chime(checks_access=True, arguments=arguments, **(defaults | given))
            case "sinch":
                return Sinch(
                    calls_url=self.public_url + CALLS_PATH,
                    drive=tenant,
                    drive_url=self.public_url + DRIVE_PATH,
                    new_reference=lambda: str(uuid.uuid4()),
                    **given,
                )
        del given["application_id"]
        return Graph(
            new_id=lambda: str(uuid.uuid4()),
            new_token=secrets.token_urlsafe,
            base_url=self.public_url,
            recordings_url=f"{self.public_url}{HELD_PATH}{quote(call_id, safe='')}",
            grace_s=self.settings.graph.grace_s,
            keep_operations=True,
            on_permit=partial(self._permits.keep, call_id),
            on_over=partial(self._permits.over, call_id),
            **({"revision": self.settings.graph.revision} | given),
        )

    def begun(self, call_id: str, application: str) -> None:
        """A call is about to say something; to be told before it does."""
        self._routes.keep(call_id, application)

    def secrets_again(self, message: VendorMessage, pointers: Sequence[str]) -> Mapping[str, Any]:
        """Secrets for a message that an earlier process has not told."""
        return self._permits.tokens_again(message.body, pointers) if message.dialect == "graph" else {}

    def notifier_for(self, message: VendorMessage) -> Notifier | None:
        """How a message reaches its customer; None for one that the event stream has."""
        application = self._routes.application_of(message.call_id)
        if not application:
            return self._others.get(message.dialect)
        known = self._applications.get(message.dialect, {}).get(application)
        if known is None:
            return None
        notifier: Notifier | None = known.handler if message.dialect == "chime" else known.backend
        return notifier
