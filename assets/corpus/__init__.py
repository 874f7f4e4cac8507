"""A corpus: from files or a hub data set, through shards and parsed records, to documents."""
