"""What data exists: one module per stage of the graph, its tables and their checks."""
