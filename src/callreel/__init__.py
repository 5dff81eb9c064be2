"""callreel: the call-recording engine that media servers embed."""

__version__ = "0.1.0.dev0"
