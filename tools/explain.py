"""Run `detection explain`."""

from detection.cli.explain import main

if __name__ == "__main__":
    raise SystemExit(main())
