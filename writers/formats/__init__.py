"""Readers of containers and lists: tars, zips, TFRecords, MATLAB files, arrays, split lists."""
