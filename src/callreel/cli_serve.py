"""`callreel serve`: the live service."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callreel.errors import UsageError
from callreel.notify.references import FromFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from callreel.recorder.figures import Milestone
    from callreel.service.settings import ServiceSettings

__all__ = ["add_serve_command"]

GOOD, USAGE = 0, 2

HOME = Path("callreel")
"""Where everything lies that no settings place elsewhere."""
TENANT = "local"

DESCRIPTION = """\
Record live calls: media over the network in, recordings out, controlled over HTTP.

Alone it listens on this machine only, keeps its spool in ./callreel/spool and delivers into ./callreel/recordings;
the token that requests need is in ./callreel/token, which is made if it is not there. It prints how to send it a
call. Settings in a file (--config) say otherwise: the table [service] is the service's own, all others are those
of the recorder ("callreel config --help").

There is a worker for each processor (--workers): a process with calls of its own. One that dies is replaced, and
harms no calls but its own, whose recordings its successor delivers.

On SIGTERM, or Ctrl-C, it begins no recordings any more and waits for those that run ([service] drain_s); a second
signal does not wait for them: what is left is finished at the next start.
"""

EPILOG = """\
examples:
  callreel serve
  callreel serve --port 8080 --rtp-ports 20000-20999
  callreel serve --check --config /etc/callreel.toml && systemctl restart callreel
  callreel serve --config /etc/callreel.toml --log json

exit status: 0 it was told to end, 2 wrong usage or settings, or the port is taken
"""


def add_serve_command(commands: Any) -> None:
    """Declare `callreel serve`."""
    parser = commands.add_parser(
        "serve",
        help="record live calls, controlled over HTTP",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings (TOML)")
    parser.add_argument("--host", metavar="ADDRESS", help="where to listen for HTTP (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, help="of HTTP (default: 8080); 0 takes a free one")
    parser.add_argument(
        "--rtp-ports", metavar="FIRST-LAST", type=_ports, help="where media comes in (default: 20000-29999)"
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, help="processes that record (default: one a processor)"
    )
    parser.add_argument("--log", choices=("text", "json"), default="text", help="form of the log, on stderr")
    parser.add_argument("--check", action="store_true", help="only look whether the settings will do")
    parser.add_argument(
        "--traces",
        action="store_true",
        help="spans for OpenTelemetry, as opentelemetry-instrument sets it up",
    )
    parser.set_defaults(run=_run)


def _ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last)


def _run(options: argparse.Namespace) -> int:
    """Carry out `callreel serve`; returns the exit status."""
    try:
        from callreel.service.configuration import read_settings
        from callreel.service.running import Service, serve, share_memory
        from callreel.service.supervisor import supervise
    except ImportError as error:
        print(
            f"callreel: serve needs the extra packages: pip install 'callreel[server]' ({error})",
            file=sys.stderr,
        )
        return USAGE
    handler = _log(options.log)
    given = {
        name: value
        for name, value in (
            ("host", options.host),
            ("port", options.port),
            ("rtp_ports", options.rtp_ports),
            ("workers", options.workers),
        )
        if value is not None
    }
    try:
        settings = read_settings(options.config, options=given | _homely(options.config))
        if options.check:
            return GOOD
        share_memory()
        if settings.worker_count > 1:
            return supervise(
                settings,
                lambda of_worker, fleet, common: Service(
                    of_worker,
                    traces=_traces() if options.traces else None,
                    fleet=fleet,
                    session_key=common.session_key,
                    audiosocket_listener=common.audiosocket,
                ),
                on_forked=lambda index: handler.setFormatter(_formatter(options.log, index)),
                on_listening=lambda port: _tell(settings, port),
            )
        service = Service(settings, traces=_traces() if options.traces else None)
    except (UsageError, OSError) as error:
        return _complain(error)
    try:
        serve(service, on_listening=lambda port: _tell(settings, port))
    except UsageError as error:
        return _complain(error)
    finally:
        service.close()
    return GOOD


def _complain(error: Exception) -> int:
    for line in str(error).splitlines():
        print(f"callreel: {line}", file=sys.stderr)
    return USAGE


def _traces() -> Callable[[Milestone], None]:
    """What turns that which took its time into spans."""
    from callreel.service.traces import Traces

    try:
        return Traces()
    except ImportError as error:
        raise UsageError(
            f"--traces needs the extra packages: pip install 'callreel[otel]' ({error})"
        ) from None


def _homely(config: Path | None) -> dict[str, Any]:
    """What a service has that nobody has set up."""
    if config is not None:
        return {}
    HOME.mkdir(exist_ok=True)
    token = HOME / "token"
    if not token.exists():
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return {
        "spool": str(HOME / "spool"),
        "destination": str(HOME / "recordings"),
        "tokens": {TENANT: FromFile(token)},
    }


def _tell(settings: ServiceSettings, port: int) -> None:
    """Say where it is, and how to send it a call."""
    url = f"http://{'[' + settings.host + ']' if ':' in settings.host else settings.host}:{port}"
    destination = settings.recorder.destination
    print(f"callreel serves at {url}")
    print(f"  recordings go to {destination or 'where requests say'}")
    source = next(iter(settings.tokens.values()), None)
    if isinstance(source, FromFile):
        print(f"  the token is in {source.path}; the operator's page is {url}/page")
        if destination is not None:
            print("  to send it a call, and to end it:")
            print(f"    TOKEN=$(cat {source.path})")
            print('    curl -s -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" \\')
            print(f"         -d '{{\"record\": {{}}}}' {url}/v1/calls")
            print(
                "    ffmpeg -nostdin -re -i speech.wav -ar 8000 -ac 1 -c:a pcm_mulaw -f rtp rtp://HOST:PORT"
            )
            print(f'    curl -s -X DELETE -H "Authorization: Bearer $TOKEN" {url}/v1/calls/CALL_ID')
            print(
                "  with call_id of what the first answers, and host and port that it has under legs, media;"
            )
            print(f"  a moment later the recording is below {destination}")
    sys.stdout.flush()


def _log(form: str) -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler


def _formatter(form: str, worker: int | None = None) -> logging.Formatter:
    """How a log is written; `worker`: whose it is, where there are several."""
    if form == "json":
        from callreel.service.logs import JsonFormatter

        return JsonFormatter(worker)
    whose = "" if worker is None else f"worker-{worker} "
    return logging.Formatter(f"%(asctime)s %(levelname)s {whose}%(name)s %(message)s")
