"""A connection that has come to the wrong worker is handed to the right one: its descriptor, and what was read from it.

    asks:     the name that the connection has given, of a fixed size
    answered: one byte, whether a leg of this worker's has that name
    handed:   the size of what was read (4 bytes, big endian) with the descriptor, then what was read

The sockets are in the folder of the fleet's, which nobody else may enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from callreel.service.fleet import Fleet

__all__ = ["ASK_S", "NAME_BYTES", "Handover"]

log = logging.getLogger("callreel.service")

NAME_BYTES: Final = 16
SIZE_BYTES: Final = 4
YES, NO = b"\1", b"\0"
ASK_S: Final = 2.0
"""In which the others must have answered, and one of them must have taken it."""
BACKLOG: Final = 1024


class Handover:
    """Asks the other workers for the owner of a connection, and is asked by them; of one event loop."""

    def __init__(
        self,
        fleet: Fleet,
        has: Callable[[bytes], bool],
        take: Callable[[socket.socket, bytes], Awaitable[None]],
    ) -> None:
        """`has` says whether a leg of ours has a name, `take` gets a connection of that leg's. OSError."""
        self._fleet, self._has, self._take = fleet, has, take
        self._path = _path(fleet, fleet.index)
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(BACKLOG)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take what others hand over, in tasks of that loop, until they are cancelled."""
        self._serving = loop.create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        with self._listener:
            while True:
                try:
                    other, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    log.error("connections are not handed over: %s", error)
                    await asyncio.sleep(1)
                    continue
                task = loop.create_task(self._taken(other))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _taken(self, other: socket.socket) -> None:
        """Answer a question, and take the connection that may follow."""
        with other:
            try:
                async with asyncio.timeout(ASK_S):
                    connection, said = await self._answered(other)
            except (OSError, TimeoutError, EOFError):  # whoever asked has another, or is gone
                return
        if connection is not None:
            connection.setblocking(False)
            try:
                await self._take(connection, said)
            except OSError as error:
                log.warning("a connection that was handed over is lost: %s", error)
                connection.close()

    async def _answered(self, other: socket.socket) -> tuple[socket.socket | None, bytes]:
        loop = asyncio.get_running_loop()
        has = self._has(await _exactly(other, NAME_BYTES))
        await loop.sock_sendall(other, YES if has else NO)
        if not has:
            return None, b""
        size, connection = await _with_descriptor(other)
        try:
            return connection, await _exactly(other, size)
        except BaseException:
            connection.close()
            raise

    async def hand(self, name: bytes, transport: asyncio.Transport, said: bytes) -> bool:
        """Hand a connection to the worker that has its leg; False when there is none. Here it is to be ended then."""
        other = await self._having(name)
        if other is None:
            return False
        with other:
            if transport.is_closing():
                return False
            descriptor = transport.get_extra_info("socket").fileno()
            try:
                socket.send_fds(other, [len(said).to_bytes(SIZE_BYTES, "big")], [descriptor])
                async with asyncio.timeout(ASK_S):
                    await asyncio.get_running_loop().sock_sendall(other, said)
            except (OSError, TimeoutError) as error:
                log.warning("a connection was not handed over: %s", error)
                return False
        return True

    async def _having(self, name: bytes) -> socket.socket | None:
        """A connection to the first worker that says it has a leg of that name."""
        others = (index for index in range(self._fleet.size) if index != self._fleet.index)
        asked = {asyncio.create_task(self._asked(index, name)) for index in others}
        try:
            while asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                having = [other for one in done if (other := one.result()) is not None]
                for other in having[1:]:
                    other.close()
                if having:
                    return having[0]
            return None
        finally:
            for one in asked:
                one.cancel()

    async def _asked(self, index: int, name: bytes) -> socket.socket | None:
        """A connection to that worker, if it has a leg of that name."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            other = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            other.setblocking(False)
            try:
                async with asyncio.timeout(ASK_S):
                    await loop.sock_connect(other, str(_path(self._fleet, index)))
                    await loop.sock_sendall(other, name)
                    has = await loop.sock_recv(other, 1) == YES
            except (OSError, TimeoutError):  # who is not there has no legs
                return None
            if has:
                undo.pop_all()
                return other
        return None


async def _exactly(other: socket.socket, size: int) -> bytes:
    """So many bytes; EOFError when the other side ends before."""
    loop = asyncio.get_running_loop()
    found = bytearray()
    while len(found) < size:
        piece = await loop.sock_recv(other, size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


async def _with_descriptor(other: socket.socket) -> tuple[int, socket.socket]:
    """A size, and the connection that comes with it; EOFError when the other side ends before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(other, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(other)
    size, descriptors, _, _ = socket.recv_fds(other, SIZE_BYTES, 1)
    if not descriptors:
        raise EOFError
    return int.from_bytes(size, "big"), socket.socket(fileno=descriptors[0])


def _path(fleet: Fleet, index: int) -> Path:
    return fleet.socket(index).with_suffix(".hand")
