"""Types of options that are numbers or the name of a device."""

import math
import re
from typing import Any

import click

DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


class IntType(click.IntRange):
    """A whole number in a range."""

    name = "n"  # `--rounds N` in help texts; click's own name is "integer range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse text that is not a whole number, and numbers outside the range."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"'{value}' is not a whole number.", param, ctx)
        return super().convert(number, param, ctx)


class FloatType(click.FloatRange):
    """A finite number in a range. `click.FloatRange` accepts nan in every range."""

    name = "number"  # `--eps NUMBER` in help texts; click's own name is "float range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse text that is not a number, nan, infinity, and numbers outside the range."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"'{value}' is not a number.", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return super().convert(number, param, ctx)


class DeviceType(click.types.StringParamType):
    """cpu, cuda or cuda:N; torch itself accepts other devices, which nothing here can use."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse other devices. Whether the GPU exists is checked when it is selected."""
        if not DEVICE.fullmatch(value):
            self.fail(f"'{value}' is not a device; use cpu, cuda or cuda:0.", param, ctx)
        return value
