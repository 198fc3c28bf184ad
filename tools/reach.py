"""Run `detection reach`."""

import sys

from detection.cli.reach import main

if __name__ == "__main__":
    sys.exit(main())
