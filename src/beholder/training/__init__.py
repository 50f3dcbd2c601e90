"""Training of a head on people's ratings, and honest measures of how well it agrees with them."""
