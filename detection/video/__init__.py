"""Detection on videos, one batch of frames at a time: a film of any length takes little memory."""
