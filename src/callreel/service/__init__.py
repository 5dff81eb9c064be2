"""The live service: media over the network, the vendors' own HTTP APIs, an operator's page.

A thin shell: it opens ports, plays what is to be played, and hands everything else to `callreel.recorder.Recorder`; no
rule of recording is here.
"""
