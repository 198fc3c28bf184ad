"""Run folders: a run is complete in its folder and is rebuilt from its `config.json` alone."""
