"""callreel: the call-recording engine that media servers embed.

    call = callreel.Call("call-7f3", started_at=datetime.now(UTC), now=time.monotonic())
    call.add_leg("LEG-A")
    call.receive_rtp("LEG-A", packet, now=time.monotonic())

See `callreel.call` for the verbs, `callreel.events` for what comes back, `callreel.kernels` for the parts.
"""

from callreel import errors, events
from callreel.call import Call

__all__ = ["Call", "__version__", "errors", "events"]

__version__ = "0.1.0.dev0"
