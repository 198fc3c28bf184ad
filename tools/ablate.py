"""Run `detection ablate`."""

import sys

from detection.cli.ablate import main

if __name__ == "__main__":
    sys.exit(main())
