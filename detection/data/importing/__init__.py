"""Readers of other annotation formats; `detection convert` calls one by the format's name."""
