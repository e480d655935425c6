"""Our convolution in BLiTZ networks: `topoprior.nn.blitz`."""

from topoprior.nn.blitz import BlitzConv2d

__all__ = ["BlitzConv2d"]
