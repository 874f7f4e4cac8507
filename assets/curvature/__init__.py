"""The EK-FAC curvature of one model on a pinned sample of one corpus, in three stages."""
