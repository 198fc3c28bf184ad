"""Run `detection merge`."""

from detection.cli.merge import main

if __name__ == "__main__":
    raise SystemExit(main())
