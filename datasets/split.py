"""Run `detection split`."""

from detection.cli.split import main

if __name__ == "__main__":
    raise SystemExit(main())
