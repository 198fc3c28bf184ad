"""Run `detection crowd`."""

from detection.cli.crowd import main

if __name__ == "__main__":
    raise SystemExit(main())
