"""Run `detection benchmark`."""

import sys

from detection.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
