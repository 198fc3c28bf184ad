"""Operations that are faster than what they replace, and compute the same values."""
