"""What a program asks of each device of a mesh that need not be here, and estimates.

Operations are counted in the traced program, where loops have lengths and what runs on
accelerators can be told from what runs on CPUs; messages between devices, and memory,
in the program that XLA partitions for as many devices, of whatever kind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from mda_jax.engine._messages import sent
from mda_jax.engine._operations import Amount, Place, work


class Cost(NamedTuple):
    """What a program asks of each device.

    Attributes:
      products: floating-point operations in matrix products.
      factorisations: those in decompositions of matrices, by published counts.
      traffic: bytes from and to memory, at least: arguments and results once, or what
        products, decompositions and passes of loops read and write if that is more.
      collectives: bytes that a device sends, by kind of message, at most: of n devices
        that exchange, the n-th part, which it keeps, is counted, too.
      arguments: bytes held.
      temporary: bytes that XLA sets aside, as compiled for the devices of this process.
        On CPUs it runs all at once that can be, and holds the memory for it, unless
        `XLA_FLAGS` has `--xla_cpu_enable_concurrency_optimized_scheduler=false` and
        `--xla_disable_hlo_passes=cpu-all-reduce-combiner`.
      results: bytes held.
      aliased: bytes of results that take the place of donated arguments.
    """

    products: Amount
    factorisations: Amount
    traffic: Amount
    collectives: Mapping[str, Amount]
    arguments: int
    temporary: int
    results: int
    aliased: int

    @property
    def held(self) -> int:
        """Bytes held at once."""
        return self.arguments + self.temporary + self.results - self.aliased


@dataclass(frozen=True)
class Accelerator:
    """The published peaks of one chip.

    Attributes:
      name: of the product.
      bfloat16: operations a second in products of bfloat16 matrices.
      float32: the same in float32 at the highest precision, in which this package
        multiplies. On a TPU a sixth: XLA then makes six products of bfloat16 parts.
      memory_rate: bytes a second from and to its memory.
      link_rate: bytes a second that it sends to others.
      memory: bytes.
    """

    name: str
    bfloat16: float
    float32: float
    memory_rate: float
    link_rate: float
    memory: int

    def seconds(self, cost: Cost) -> float:
        """An estimate: the least time that the peaks allow.

        Operations, memory and messages are taken to overlap, and decompositions to run
        as fast as products, which they do not.
        """
        return max(
            (cost.products + cost.factorisations) / self.float32,
            cost.traffic / self.memory_rate,
            sum(cost.collectives.values()) / self.link_rate,
        )


V5E = Accelerator("TPU v5e", 197e12, 197e12 / 6, 819e9, 200e9, 16 << 30)
"""https://cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB at 819 GB/s, and links of
400 GB/s in both directions together."""

V6E = Accelerator("TPU v6e", 918e12, 918e12 / 6, 1638e9, 400e9, 32 << 30)
"""https://cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB at 1638 GB/s, and links of
800 GB/s in both directions together."""

H100 = Accelerator("H100 SXM", 989e12, 67e12, 3.35e12, 450e9, 80 << 30)
"""https://www.nvidia.com/en-us/data-center/h100: 989 TFLOP/s without sparsity, 67 in
FP32, which XLA uses at the highest precision, 80 GB at 3.35 TB/s, and NVLink of
900 GB/s in both directions together: between the chips of one host."""

ACCELERATORS = (V5E, V6E, H100)


def cost(f: Callable[..., Any], *args: Any, platform: str = "tpu") -> Cost:
    """Count what `f(*args)` asks of each device; compiles, and runs nothing.

    Args:
      f: a function of arrays; jitted if something is to be donated.
      *args: trees of arrays, or of `jax.ShapeDtypeStruct`s; those with shardings say
        what the mesh is: fake devices serve.
      platform: whose branch of `jax.lax.platform_dependent` is counted.

    Returns:
      The counts. Outside of `shard_map`, products are taken to be split evenly over
      the devices, and decompositions to be repeated by each. A loop without a known
      end counts as one pass; of other branches the one with most operations counts.
    """
    jitted: Any = f if hasattr(f, "trace") else jax.jit(f)
    traced = jitted.trace(*args)
    compiled = traced.lower().compile()
    devices = max(map(_devices, jax.tree.leaves(args)), default=1)
    found = work(traced.jaxpr, Place(platform, devices))
    memory = compiled.memory_analysis()
    through = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Cost(
        found.products,
        found.factorisations,
        max(found.traffic, through),
        sent(compiled.as_text()),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
    )


def _devices(x: Any) -> int:
    sharding = getattr(x, "sharding", None)
    return 1 if sharding is None else len(sharding.device_set)
