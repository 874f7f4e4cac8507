"""Delta Lake: what tables look like, and the one way in which they are read and written."""
