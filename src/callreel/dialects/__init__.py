"""Vendors' words, both ways: one module a vendor. They know nothing of audio and do no I/O."""
