"""Options of the long forms of tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-demo",
        type=int,
        metavar="N",
        help="of test_harness_end_to_end.py: disturb the demo, scaled down, at N points; not a tiny recipe at 4",
    )
    parser.addoption(
        "--kill-nodes",
        type=int,
        metavar="N",
        help="of test_harness_launchers_ray.py: kill N nodes of a Ray cluster, one by one, at random moments",
    )
    parser.addoption(
        "--compiler",
        action="store_true",
        help="run test_harness_compile_cache.py, which calls torch.compile",
    )
