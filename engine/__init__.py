"""How a run happens: options, run folder, teachers, step, checkpoint, evaluation, logging."""

from distilplace.common.extras import require_training

require_training("distilplace.engine")
