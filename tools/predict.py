"""Run `detection predict`."""

import sys

from detection.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
