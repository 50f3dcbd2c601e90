"""A score set and rules in, the rows that stay out, with their ranks and why the others went."""
