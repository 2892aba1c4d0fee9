"""How a run happens: options, run folder, teachers, step, checkpoint, evaluation, logging."""
