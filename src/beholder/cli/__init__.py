"""The commands: flags in, one call of the library, its result shown. No logic here."""
