"""Run a range of cases in a process that a crash may end; `run.py` starts it."""

import argparse
import faulthandler
import json
import os
import sys
import traceback
from pathlib import Path

from writers.jpeg import native


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--libraries", type=Path, required=True)
    parser.add_argument(
        "--state",
        type=Path,
        required=True,
        help="file for the number of the current case; its folder is used for cases",
    )
    parser.add_argument("--limit", type=float, required=True, help="seconds for a case")
    chosen = parser.parse_args()
    use_libraries(chosen.libraries)

    # Import these only now, because they load the libraries.
    from tests.fuzz.checks import check_image_case, compile_kernels
    from tests.fuzz.tables import check_beton_case

    compile_kernels()
    beton = chosen.state.with_name("case.beton")
    state = os.open(chosen.state, os.O_WRONLY | os.O_CREAT)
    for number in range(chosen.first, chosen.first + chosen.count):
        os.pwrite(state, f"{number:20}".encode(), 0)
        faulthandler.dump_traceback_later(chosen.limit, exit=True)
        try:
            if chosen.target == "beton":
                problem = check_beton_case(beton, chosen.seed, number)
            else:
                problem = check_image_case(chosen.target, chosen.seed, number)
        except Exception:
            problem = "an unexpected exception:\n" + traceback.format_exc()
        if problem:
            print(json.dumps({"number": number, "problem": problem}), flush=True)
    faulthandler.cancel_dump_traceback_later()


def use_libraries(folder: Path) -> None:
    """Load the C libraries of `loaders` and `writers` from a folder of sanitized builds."""
    from tests.fuzz.sanitized import library_of

    def library_file(module: str) -> Path:
        return library_of(folder, module)

    native.library_file = library_file
    if native.library() is None:
        sys.exit(f"The libraries in {folder} cannot be loaded.")


if __name__ == "__main__":
    main()
