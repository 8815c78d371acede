"""Labels of images from a table: CSV, JSON or Parquet, next to a folder or archive of images."""
