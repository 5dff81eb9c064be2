"""A vendor's document that is carried out for every call of a capture, as if the customer had sent it.

Which vendor it is shows in its members. What the page of the vendor prints may be given as it is: a Lambda function's
answer, a list of actions or a single one; SVAML; the body of Microsoft Graph's record, or its path and body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from urllib.parse import quote

from callreel.call import Call
from callreel.dialects import Response, Session
from callreel.dialects.chime import Chime
from callreel.dialects.graph import Graph
from callreel.dialects.sinch import Sinch
from callreel.errors import InvalidActionError
from callreel.events import ActionEnded, Perform, Play, RecordingFinished, RecordingStarted, VendorMessage

__all__ = ["Script", "complaint", "rehearse", "script_of"]

CHIME_MEMBERS = frozenset({"Actions", "Statement", "Type"})
SINCH_MEMBERS = frozenset({"instructions", "action", "svaml"})
GRAPH_MEMBERS = frozenset(
    {
        "path",
        "prompts",
        "bargeInAllowed",
        "initialSilenceTimeoutInSeconds",
        "maxSilenceTimeoutInSeconds",
        "maxRecordDurationInSeconds",
        "playBeep",
        "stopTones",
        "clientContext",
    }
)
COMPLAINTS = ("ErrorMessage", "errorMsg", "message")
"""Where the vendors' words for what is wrong stand."""


@dataclass(frozen=True, slots=True)
class Script:
    """What is asked for each call, and in whose words."""

    dialect: str
    document: Any

    def session(self) -> Session:
        """A vendor's side of one more call."""
        if self.dialect == "chime":
            return Chime()
        if self.dialect == "sinch":
            return Sinch(application_key="callreel", callbacks=False)
        numbers, secrets = count(1), count(1)
        return Graph(
            new_id=lambda: f"operation-{next(numbers)}",
            new_token=lambda: f"unused-{next(secrets)}",  # nobody downloads from a capture
            base_url="",
        )

    def request_for(self, call_id: str) -> Any:
        """The document with this call's id in it, whatever id was written there."""
        document = self.document
        if self.dialect == "chime":
            return _with_call_id(document, call_id)
        if self.dialect == "sinch":
            document = document if "svaml" in document else {"svaml": document}
            return {name: value for name, value in document.items() if name != "callId"}
        ours = f"/calls/{quote(call_id, safe='')}"
        if "path" not in document:
            return {"path": f"/app{ours}/record", "body": document}
        path = document["path"]
        if isinstance(path, str):
            path = re.sub(r"/calls/[^/?#]+", lambda _: ours, path, count=1)
        return {**document, "path": path}


def script_of(document: Any) -> Script:
    """Find out whose document this is; InvalidActionError when it is nobody's."""
    if isinstance(document, list) or (isinstance(document, Mapping) and "Type" in document):
        document = {"Actions": document if isinstance(document, list) else [document]}
    if not isinstance(document, Mapping):
        raise InvalidActionError("an action is a JSON object, or a list of such", value=document)
    if document.keys() & CHIME_MEMBERS:
        # An answer with Actions has a version; the other forms that the pages print have none.
        return Script("chime", {"SchemaVersion": "1.0", **document} if "Actions" in document else document)
    if document.keys() & SINCH_MEMBERS:
        return Script("sinch", document)
    if document.keys() & GRAPH_MEMBERS:
        return Script("graph", document)
    raise InvalidActionError(
        "no vendor's action: Amazon Chime's has Actions, Sinch's instructions or action, Microsoft Graph's prompts, "
        "playBeep, stopTones and the like"
    )


def _with_call_id(value: Any, call_id: str) -> Any:
    if isinstance(value, Mapping):
        return {
            name: call_id if name == "CallId" else _with_call_id(one, call_id) for name, one in value.items()
        }
    if isinstance(value, list):
        return [_with_call_id(one, call_id) for one in value]
    return value


def complaint(answer: Any) -> str | None:
    """What is wrong by a vendor's message or response body; None when nothing is."""
    if isinstance(answer, Mapping):
        for name in COMPLAINTS:
            if isinstance(answer.get(name), str):
                return str(answer[name])
        for one in answer.values():
            found = complaint(one)
            if found is not None:
                return found
    return None


def _refusal(response: Response | None) -> str | None:
    if response is None or response.status < 400:
        return None
    return complaint(response.body) or f"the answer is status {response.status}"


def rehearse(script: Script) -> str | None:
    """Carry the document out for a call of a second; what is wrong with it, or None."""
    call = Call("rehearsal", started_at=datetime(2000, 1, 1, tzinfo=UTC), now=0.0, dialect=script.session())
    call.add_leg()
    problem = _refusal(call.request(script.request_for("rehearsal"), now=0.0))
    begun = False
    for now in (0.2, 1.0, 3.0):
        events = call.events()
        while events and problem is None:
            for event in events:
                if isinstance(event, Play):
                    call.played(event.action_id, now=now)
                elif isinstance(event, Perform):
                    call.performed(event.action_id, now=now)
                elif isinstance(event, RecordingFinished):
                    call.stored(event.recording_id, now=now)
                elif isinstance(event, ActionEnded) and event.error is not None:
                    # The vendor's own words do not always say which member they mean.
                    where = f"{event.error.field}: " if event.error.field else ""
                    problem = problem or f"{where}{event.error}"
                elif isinstance(event, VendorMessage):
                    problem = problem or complaint(event.body)
                begun = begun or isinstance(event, RecordingStarted)
            events = call.events()
        call.handle_timeout(now=now)
    if problem is None and not begun:
        problem = "this asks for no recording of a call"
    return problem
