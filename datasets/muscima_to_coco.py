"""Run `detection muscima`."""

from detection.cli.muscima import main

if __name__ == "__main__":
    raise SystemExit(main())
