"""Place retrieval: ranking, recalls, their intervals."""

from distilplace.evaluation.retrieval.runs import evaluate_runs, one_percent_recall, recall_at

__all__ = ["evaluate_runs", "one_percent_recall", "recall_at"]
