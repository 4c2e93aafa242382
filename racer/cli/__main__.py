"""``python -m racer.cli``."""

import sys

from racer.cli.app import main

sys.exit(main())
