"""Run `detection train_classifier`."""

import sys

from detection.cli.train_classifier import main

if __name__ == "__main__":
    sys.exit(main())
