"""Reading and writing of any kind of place and table: paths, remote files, atomic writes, Parquet, CSV, JSON lines, records."""
