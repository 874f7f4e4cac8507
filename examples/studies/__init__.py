"""Studies with the paper's settings for models and corpora that anyone can download, and their query sets."""
