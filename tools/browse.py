"""Run `detection browse`."""

import sys

from detection.cli.browse import main

if __name__ == "__main__":
    sys.exit(main())
