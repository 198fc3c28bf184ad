"""Run `detection scenes`."""

from detection.cli.scenes import main

if __name__ == "__main__":
    raise SystemExit(main())
