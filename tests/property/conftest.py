"""What the tests here need of the machine: the spool, and whatever stands on it, is for POSIX."""

import sys

collect_ignore = (
    ["test_audiosocket.py", "test_settings.py", "test_spool_rules.py"] if sys.platform == "win32" else []
)
