"""Files that are replaced whole, texts in PNG files, the folder of a run."""
