"""Catalog of source kinds: the ways in which labeled images are stored on disk.

Each file of this folder is one kind. It defines `LAYOUT`, a description for messages;
`recognize(path)`, a fast check of whether the path has this layout; and `find(path, classes)`,
which lists the images (`classes` are those that the dataset defines, None if it defines none). A
path that no kind recognizes is read as a tree of class folders. `writers/source.py` calls these
functions.
"""
