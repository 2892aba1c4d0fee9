"""Which items make a batch, and which a validation split."""
