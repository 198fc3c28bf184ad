"""Sweeps: a recurrent cell scanned along the rows and columns of a feature map under a valid mask."""
