"""``make bench-sparse``."""

import sys

from distilplace.tools.bench_sparse.run import main

if __name__ == "__main__":
    sys.exit(main(own_process=True))
