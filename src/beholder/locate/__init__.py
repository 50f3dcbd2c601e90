"""Where a scored picture is now, and which files a page may open."""
