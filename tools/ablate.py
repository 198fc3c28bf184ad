"""Run `detection ablate`."""

from detection.cli.ablate import main

if __name__ == "__main__":
    raise SystemExit(main())
