"""People's ratings of pictures: read from the files that people have, and matched to the pictures of a set."""
