"""Annotations of VOC that are not XML, or try to hide declarations, are refused."""

import pytest

from writers.datasets._voc_annotations import Box, read_annotation
from writers.errors import UserError

PERSON = (
    "<annotation><size><width>60</width><height>50</height></size><object><name>person</name>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
    "</annotation>"
)
ENTITIES = '<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]>' + PERSON


class OneFile:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def names(self) -> list[str]:
        return ["1.xml"]

    def read(self, name: str) -> bytes:
        return self.data

    def where(self, name: str) -> str:
        return name


def declared(encoding: str, text: str = PERSON) -> str:
    return f'<?xml version="1.0" encoding="{encoding}"?>{text}'


@pytest.mark.parametrize(
    "data",
    [
        PERSON.encode(),
        PERSON.encode("utf-8-sig"),
        declared("utf-8").encode(),
        declared("x-unknown").encode(),
        declared("hex").encode(),
        declared("latin-1", PERSON.replace("</size>", "</size><owner>\xe9</owner>")).encode(
            "latin-1"
        ),
    ],
    ids=["plain", "mark", "utf-8", "unknown", "hex", "latin-1"],
)
def test_a_declared_encoding_has_no_effect(data: bytes):
    found = read_annotation(OneFile(data), "1.xml")
    assert found[1].name == "person" and found[1].box == Box(0, 1, 10, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(100),
        PERSON[:80].encode(),
        ENTITIES.encode(),
        ENTITIES.encode("utf-16"),
        declared("cp037", ENTITIES).encode("cp037"),
        b"<a>" * 1000 + b"</a>" * 1000,
        PERSON.replace(">1<", ">nan<").encode(),
        PERSON.replace(">10<", ">1e308<").encode(),
    ],
    ids=["empty", "zeros", "cut", "entities", "utf-16", "ebcdic", "deep", "nan", "huge"],
)
def test_other_annotations_are_refused(data: bytes):
    with pytest.raises(UserError, match=r"1\.xml cannot be read as an annotation"):
        read_annotation(OneFile(data), "1.xml")
