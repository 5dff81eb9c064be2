"""`python -m callreel` is the command `callreel`."""

import sys

from callreel.cli import main

sys.exit(main())
