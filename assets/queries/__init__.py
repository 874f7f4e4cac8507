"""Query sets: prompts and the completions whose likelihood a study explains."""
