"""The documentation's sources, and the modules that write its reference from the code."""
