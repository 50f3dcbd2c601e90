"""Readers of everything that holds pictures: folders, lists and tables, tars, zips, Parquet files."""
