"""The commands: each reads its flags, calls the library once and shows the result. No logic here."""
