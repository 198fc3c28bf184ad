"""Analysis of models: effective receptive field, attention, complexity, time, and drawings."""
