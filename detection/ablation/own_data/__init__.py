"""Does context help on a person's own data? The question, its data checks, its time, and its answer in words."""
