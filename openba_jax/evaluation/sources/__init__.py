"""Questions on disk: JSON, CSV, Parquet, Arrow and TFDS folders, found out and read."""
