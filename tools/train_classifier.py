"""Run `detection train_classifier`."""

from detection.cli.train_classifier import main

if __name__ == "__main__":
    raise SystemExit(main())
