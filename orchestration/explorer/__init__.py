"""`headwater explore`: the results as pages for reading, on loopback and without the network."""
