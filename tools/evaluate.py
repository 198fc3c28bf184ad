"""Run `detection evaluate`."""

import sys

from detection.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
