"""`python -m caspi` is `caspi`."""

import sys

from caspi.cli import main

sys.exit(main())
