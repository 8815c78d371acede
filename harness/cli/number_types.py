"""Types of options that are numbers or the name of a device."""

import math
import re
from typing import Any

import click

DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


class FloatType(click.FloatRange):
    """A finite number in a range. `click.FloatRange` accepts nan in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nan and infinity."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class DeviceType(click.types.StringParamType):
    """cpu, cuda or cuda:N; torch itself accepts other devices, which nothing here can use."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse other devices. Whether the GPU exists is checked when it is selected."""
        if not DEVICE.fullmatch(value):
            self.fail(f"'{value}' is not a device; use cpu, cuda or cuda:0.", param, ctx)
        return value
