"""Run `detection convert --from voc`."""

import sys

from detection.cli.convert import main

if __name__ == "__main__":
    raise SystemExit(main(["--from", "voc", *sys.argv[1:]]))
