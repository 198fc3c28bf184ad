"""Run `detection browse`."""

from detection.cli.browse import main

if __name__ == "__main__":
    raise SystemExit(main())
