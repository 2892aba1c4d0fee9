"""``make bench``."""

import sys

from distilplace.tools.bench.run import main

if __name__ == "__main__":
    sys.exit(main())
