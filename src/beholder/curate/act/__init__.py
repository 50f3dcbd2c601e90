"""What is done with the files of the kept pictures: copied, linked, moved, packed, journaled, undone."""
