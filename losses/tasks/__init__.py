"""Task losses, one file each; the table is in :mod:`distilplace.losses`."""
