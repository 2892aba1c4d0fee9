"""``python -m tools.compare``."""

import sys

from distilplace.tools.compare.run import main

if __name__ == "__main__":
    sys.exit(main())
