"""What a study computes: completions, query gradients, influence, document norms and rankings."""
