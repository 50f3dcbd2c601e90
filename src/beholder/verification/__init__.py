"""How right scores are: against published ones, and of fast settings against the exact one."""
