"""Pictures and short tables for the pages of Dagster and MLflow."""
