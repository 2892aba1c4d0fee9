"""The run folder: options, log, metrics, checkpoints, lock."""
