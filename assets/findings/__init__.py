"""The findings: every table of the paper, from statistics of shards that add up."""
