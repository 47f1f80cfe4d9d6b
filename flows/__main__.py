"""`python -m flows`: the nightjar command without its script."""

import sys

from flows.cli import main

sys.exit(main())
