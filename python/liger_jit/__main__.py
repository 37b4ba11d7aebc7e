"""`python -m liger_jit`, the same as `liger-jit`."""

import sys

from .cli import main

sys.exit(main())
