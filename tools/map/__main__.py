"""``python -m tools.map``."""

import sys

from distilplace.tools.map.run import main

sys.exit(main())
