"""Tensors in, tensors out: the EK-FAC attribution engine, in torch and transformers alone."""
