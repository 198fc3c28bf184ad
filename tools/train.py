"""Run `detection train`."""

import sys

from detection.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
