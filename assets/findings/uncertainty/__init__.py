"""Intervals and tests whose unit is the query: bootstrap over queries, permutation of queries, corrections.

Documents are never the unit: over millions of them every p-value is zero. Intervals are of 95 %. In all functions a
value that is nan is missing and left out; what cannot be known (the spread of one query) is nan, without a warning.
Results are the same for the same seed, whatever the order of the queries where it cannot matter (not so for matrices).
"""
