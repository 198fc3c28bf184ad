"""Run `detection doctor`."""

import sys

from detection.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
