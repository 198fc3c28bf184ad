"""Run `detection train`."""

from detection.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
