"""Run `detection convert --from tensorbox`."""

import sys

from detection.cli.convert import main

if __name__ == "__main__":
    raise SystemExit(main(["--from", "tensorbox", *sys.argv[1:]]))
