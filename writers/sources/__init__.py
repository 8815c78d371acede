"""The catalogue of kinds of sources: how images with labels lie on disk. Each file is one kind (`writers/source.py`).

A kind has `LAYOUT`, what is looked for, in words; `recognise(path)`, whether it lies there, by a look that takes no time; and
`find(path, classes)`, which images are there. What no kind recognises is taken for a tree of class folders.
"""
