"""Count phrases that make technical prose hard to read: docstrings, comments, messages, docs.

Names of tests are read as sentences.

    python docs/check_prose.py [--files] [PATH ...]

Prints the number of hits per 10,000 words and fails above LIMIT. CONTRIBUTING.md explains the
rules; well-kept projects of this field have at most 7 hits per 10,000 words.
"""

import argparse
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

LIMIT = 10.0  # hits per 10,000 words
ROOT = Path(__file__).resolve().parents[1]
PLACES = ("harness", "writers", "loaders", "benchmarks", "recipes", "docs", "tests", "README.md")
TEXT = {".md", ".yaml", ".c", ".h", ".j2"}

# name -> (pattern, what to write instead)
PHRASES = {
    "where": (
        r"\bwhere (?=(?:there|it|they|a|an|the|no|none|that|this|these|those|one|each|some|several"
        r"|many|nothing|neither|not|only|all|both|its|their|he|she|we|you|nobody|people|somebody"
        r"|two|any|another|other|either)\b)",
        "if, when",
    ),
    "says": (r"\b(?:says?|said|saying|tells?|told|asks|knows|knew)\b", "returns, raises, reads"),
    "none": (r"\bNone: ", "None if ..., None means ..."),
    "lies": (r"\b(?:lies|lie|lay|lying)\b", "is, is stored"),
    "behind": (r"\bbehind\b", "after"),
    "whoever": (r"\b(?:whoever|whatever|whichever|whomever)\b", "name the thing"),
    "of": (r"(?:^|[.:;] |\"\"\"|# )Of (?=[a-z])", "begin with a verb or a noun"),
    "beside": (r"\bbeside\b", "next to, in addition to"),
    "so many": (r"\bso (?:many|much)\b", "that many, a number"),
    "goes on": (r"\b(?:goes|go|going|went) on\b", "continues"),
    "anew": (r"\banew\b", "again"),
    "hands": (r"\bhand(?:s|ed|ing)? (?:on|over|out|back)\b", "passes, returns"),
    "no": (
        r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer|more|less|fewer|larger|later)[a-z]+",
        "is not a",
    ),
    "in vain": (r"\bin vain\b", "without result"),
    "passed over": (r"\b(?:is|are|was|were) passed over\b", "is skipped"),
    "twin": (r"\b[Ss]low twins?\b", "reference implementation"),
    "what": (r"\"\"\"(?:What|Whether|Its|As)\b", "begin with a verb or a noun"),
}
PATTERNS = {name: re.compile(pattern, re.MULTILINE) for name, (pattern, _) in PHRASES.items()}
WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of the docstrings, comments, messages and test names of a file.

    Files that are not Python are one text.
    """
    source = path.read_text()
    if path.suffix in TEXT:
        yield 1, source
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_text = token.type == tokenize.STRING and " " in token.string
        if is_text or token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def files_of(paths: list[Path]) -> Iterator[Path]:
    """Yield the files with prose at or below the paths, except results and this file."""
    for path in paths:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in found:
            is_prose = file.suffix in TEXT | {".py"} and file.is_file()
            if is_prose and "results" not in file.parts and file != Path(__file__).resolve():
                yield file


def main() -> int:
    """Print the counts; return 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--files", action="store_true", help="print each hit with file and line")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.paths] or [ROOT / place for place in PLACES]
    num_words, hits = 0, dict.fromkeys(PATTERNS, 0)
    for file in files_of(paths):
        for line, text in prose_of(file):
            num_words += len(WORD.findall(text))
            for name, pattern in PATTERNS.items():
                for match in pattern.finditer(text):
                    hits[name] += 1
                    if options.files:
                        row = line + text.count("\n", 0, match.start())
                        place, better = f"{file.relative_to(ROOT)}:{row}", PHRASES[name][1]
                        print(f"{place}: {match.group().strip()!r} -> {better}")
    rate = 1e4 * sum(hits.values()) / max(1, num_words)
    counts = ", ".join(f"{name} {count}" for name, count in hits.items() if count)
    print(f"{rate:.1f} odd phrases per 10,000 words of {num_words:,} (limit {LIMIT:g}): {counts}")
    return int(rate > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
