"""ContextScenes: images drawn from a seed, in which each task asks one question of a detector."""
