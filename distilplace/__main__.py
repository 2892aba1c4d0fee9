"""``python -m distilplace COMMAND``."""

import sys

from distilplace.cli import main

if __name__ == "__main__":
    sys.exit(main())
