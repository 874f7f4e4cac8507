"""MLflow: the lab book of every run."""
