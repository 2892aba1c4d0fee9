"""Published distillation losses, as terms that can be added to any method; the table is in :mod:`losses.terms`."""
