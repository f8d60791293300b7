"""Data sources: converters from the files of other programs to dataset directories."""
