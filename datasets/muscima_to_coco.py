"""Run `detection doctor`."""

from detection.cli.doctor import main

if __name__ == "__main__":
    raise SystemExit(main())
