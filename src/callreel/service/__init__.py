"""The live service: media over the network, the vendors' own HTTP APIs, an operator's page.

A thin shell: it opens ports, plays what is to be played, and hands everything else to `callreel.recorder.Recorder`. No
rule of recording is here. docs/service.md tells how it is run and what it promises. Extra `callreel[server]`.
"""

from __future__ import annotations
