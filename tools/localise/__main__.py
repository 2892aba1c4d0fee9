"""``python -m tools.localise``."""

import sys

from distilplace.tools.localise.run import main

sys.exit(main())
