"""Workers of one fleet in the process of the test, each with an address of its own: so a test says which is asked."""

import contextlib
import shutil
import tempfile
from pathlib import Path

from callreel.service.fleet import Fleet
from callreel.service.running import Service
from service_host import listening, settings_in

KEY = bytes(range(32))


@contextlib.contextmanager
def fleet_of(size, settings, **options):
    """So many workers that listen; `settings` are those of the whole service."""
    sockets = Path(tempfile.mkdtemp(prefix="callreel-test-"))
    try:
        with contextlib.ExitStack() as running:
            yield [
                running.enter_context(listening(worker(index, size, settings, sockets, **options)))
                for index in range(size)
            ]
    finally:
        shutil.rmtree(sockets)


def worker(index, size, settings, sockets, **options):
    """One of them."""
    fleet = Fleet(index, size, sockets)
    return Service(settings.of_worker(index), fleet=fleet, session_key=KEY, **options)


def id_of(running, stem="call"):
    """An id of a call that this worker owns."""
    fleet = running.service.fleet
    return next(name for number in range(10_000) if fleet.is_ours(name := f"{stem}-{number}"))


__all__ = ["KEY", "fleet_of", "id_of", "settings_in", "worker"]
