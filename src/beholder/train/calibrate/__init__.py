"""`beholder calibrate`: maps of scores onto other scales, and tables of scores on them."""
