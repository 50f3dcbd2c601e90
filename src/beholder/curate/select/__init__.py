"""Selection: rules applied to the rows of a score set, one after another, and the lists that come out."""
