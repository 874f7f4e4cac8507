"""What can be run to see Headwater at work."""
