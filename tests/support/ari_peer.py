"""Asterisk's REST interface as far as examples/asterisk.py asks for it: Debian 12 has no Asterisk.

What it tells and answers is what Asterisk 22.10.1 did.
"""

import asyncio
import socket
import threading

import uvicorn
from fastapi import FastAPI, Request, WebSocket

CHANNEL = {
    "id": "1795984595.2",
    "name": "PJSIP/phone-00000002",
    "state": "Ring",
    "caller": {"name": "", "number": "+15551230001"},
    "dialplan": {
        "context": "calls",
        "exten": "102",
        "priority": 1,
        "app_name": "Set",
        "app_data": "CALLREEL=yes",
    },
}


class AriPeer:
    """Serves from its making until `close`; keeps what it was asked, in order."""

    def __init__(self, authorization):
        self.asked = []
        self._authorization = authorization
        self._events = None
        self._loop = None
        self.is_followed = threading.Event()
        app = FastAPI()
        app.websocket("/ari/events")(self._follow)
        app.api_route("/ari/{path:path}", methods=["POST", "DELETE"])(self._answer)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="websockets-sansio"))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    async def _follow(self, events: WebSocket):
        if events.headers.get("authorization") != self._authorization:
            await events.close()
            return
        await events.accept()
        self._events, self._loop = events, asyncio.get_running_loop()
        self.is_followed.set()
        async for _ in events.iter_text():
            pass

    async def _answer(self, path: str, request: Request):
        assert request.headers["authorization"] == self._authorization
        self.asked.append((request.method, path, dict(request.query_params)))
        return {}

    def tell(self, kind, **more):
        """An event of the channel."""
        body = {"type": kind, "channel": CHANNEL, "application": "callreel", **more}
        asyncio.run_coroutine_threadsafe(self._events.send_json(body), self._loop).result(10)

    def close(self):
        """End it."""
        self._server.should_exit = True
        self._thread.join()
