"""What a study will cost, told before anything runs."""
