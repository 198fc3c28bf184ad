"""Operations written again where measurement says they pay; each keeps the numbers of what it replaces."""
