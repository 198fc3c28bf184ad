"""Run `detection crowd`."""

import sys

from detection.cli.crowd import main

if __name__ == "__main__":
    sys.exit(main())
