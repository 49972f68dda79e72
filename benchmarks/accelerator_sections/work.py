"""One operation of the roofline, and programs that repeat it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.accelerator_sections import reporting


class Work(NamedTuple):
    """An operation, and the least that it must do.

    Attributes:
      step: Function from its inputs to arrays of their shapes and types, its next inputs.
      inputs: Arrays.
      flops: Operations of matrix products, counted by hand.
      exponentials: Number of exponentials.
      num_bytes: Least number of bytes that are read and written.
    """

    step: Callable[..., Any]
    inputs: Any
    flops: float
    exponentials: float
    num_bytes: float

    def compile(self, times: int) -> Any:
        """Compiles a program that repeats the step, without a launch by the host for each."""

        def many(inputs: Any) -> Any:
            return jax.lax.scan(lambda now, _: (self.step(now), None), inputs, length=times)[0]

        return jax.jit(many).lower(self.inputs).compile()

    def seconds(self, program: Any, times: int, seconds: float) -> dict[str, Any]:
        """Measures the seconds of one step.

        Args:
          program: Compiled program of `compile`.
          times: Number of steps of the program.
          seconds: Time to repeat the program for.
        """
        jax.block_until_ready(program(self.inputs))
        runs = reporting.repeat(lambda: program(self.inputs), seconds)
        per_step = reporting.median_and_range([run / times for run in runs])
        return {**per_step, "in_one_program": times}
