"""Run `detection reach`."""

from detection.cli.reach import main

if __name__ == "__main__":
    raise SystemExit(main())
