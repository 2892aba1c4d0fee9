"""``make demo``."""

import sys

from distilplace.tools.demo.run import main

if __name__ == "__main__":
    sys.exit(main())
