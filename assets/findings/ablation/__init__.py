"""The ablation: how well scores of settings that cost less agree with full-rank float32 EK-FAC (analysis 8)."""
