"""Run `detection compare`."""

import sys

from detection.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
