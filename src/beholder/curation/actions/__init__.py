"""Kept pictures in; copies, links, moves, tars and Parquet files out, with a journal that continues or undoes them."""
