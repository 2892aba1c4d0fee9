"""``python -m tools.export``."""

import sys

from distilplace.tools.export.run import main

if __name__ == "__main__":
    sys.exit(main())
