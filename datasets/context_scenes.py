"""Run `detection scenes`."""

import sys

from detection.cli.scenes import main

if __name__ == "__main__":
    sys.exit(main())
