"""Checkpoints: named ones that are taken as they are, and ones trained from scratch on a study's corpus."""
