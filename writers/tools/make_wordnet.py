"""Make `writers/wordnet.txt` from WordNet 3.0 in Debian's package wordnet-base.

    python -m writers.tools.make_wordnet /usr/share/wordnet > writers/wordnet.txt

ImageNet's class ids are the offsets of nouns in WordNet 3.0; offsets differ between versions. Huh,
Agrawal and Efros (2016) followed one parent of each node from a class to the root. Their label sets
are reproduced if this parent is the hypernym whose name (first lemma, `.n.`, sense number) comes
first in alphabetical order, as in NLTK. The table lists this hypernym first.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from writers.subset.lists import imagenet_classes

# The first lines of the data file.
NOTICE = """\
# WordNet 3.0: the 1000 classes of ILSVRC 2012 and all their hypernyms. Made by writers/tools/make_wordnet.py.
# Columns: id, hypernyms (by a comma; first the one that Huh et al. 2016 climbed to), words.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Permission to use, copy, modify and distribute this
# software and database and its documentation for any purpose and without fee or royalty is hereby granted, provided that you
# agree to comply with the following copyright notice and statements, including the disclaimer, and that the same appear on
# ALL copies of the software, database and documentation, including modifications that you make for internal use or for
# distribution. THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR
# WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR
# WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR
# DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. The name of Princeton
# University or Princeton may not be used in advertising or publicity pertaining to distribution of the software and/or
# database. Title to copyright in this software, database and any associated documentation shall at all times remain with
# Princeton University and LICENSEE agrees to preserve same."""


def main(folder: Path) -> None:
    """Print the table."""
    senses = {lemma: offsets for lemma, offsets in _index(folder / "index.noun")}
    words: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    for offset, lemmas, hypernyms in _data(folder / "data.noun"):
        words[offset], parents[offset] = lemmas, hypernyms

    def name(offset: str) -> str:
        lemma = words[offset][0].lower()
        return f"{lemma}.n.{senses[lemma].index(offset) + 1:02}"

    needed: set[str] = set()
    waiting = [wnid[1:] for wnid in imagenet_classes()]
    while waiting:
        offset = waiting.pop()
        if offset not in needed:
            needed.add(offset)
            waiting += parents[offset]
    print(NOTICE)
    for offset in sorted(needed):
        above = ",".join(f"n{parent}" for parent in sorted(parents[offset], key=name))
        print(f"n{offset}\t{above}\t{', '.join(word.replace('_', ' ') for word in words[offset])}")


def _index(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each lemma with the offsets of its senses, in the order of their numbers."""
    for line in file.read_text().splitlines():
        if not line.startswith(" "):
            lemma, _, num_senses, *rest = line.split()
            yield lemma, rest[-int(num_senses) :]


def _data(file: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield offset, lemmas and hypernyms' offsets of each node (pointers `@`, but not `@i`)."""
    for line in file.read_text().splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        num_words = int(fields[3], 16)
        lemmas = fields[4 : 4 + 2 * num_words : 2]
        pointers = fields[5 + 2 * num_words :]
        hypernyms = [
            pointers[place + 1]
            for place in range(0, 4 * int(fields[4 + 2 * num_words]), 4)
            if pointers[place] == "@"
        ]
        yield fields[0], lemmas, hypernyms


if __name__ == "__main__":
    main(Path(sys.argv[1]))
